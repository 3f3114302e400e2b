"""Tools in the terminal: shows calls, asks for consent, and runs turns with tools."""
