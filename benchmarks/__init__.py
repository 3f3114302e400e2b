"""What the project claims in numbers, each by a command that prints it."""
