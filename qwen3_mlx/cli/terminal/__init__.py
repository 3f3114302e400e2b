"""Writes to a terminal and reads from it."""
