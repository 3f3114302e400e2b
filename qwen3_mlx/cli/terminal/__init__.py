"""What is written to a terminal, and read from it."""
