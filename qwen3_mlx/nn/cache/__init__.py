"""Keys and values of the past: whole, packed, seen through a window, or with a plain tail."""
