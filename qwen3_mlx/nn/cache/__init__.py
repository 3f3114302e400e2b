"""The key/value caches: full, quantized, limited to a window, or with a short tail."""
