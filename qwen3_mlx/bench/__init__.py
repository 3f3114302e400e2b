"""Measuring: rates side by side, and networks of any published shape with random weights."""
