"""Converts checkpoints: reads any packing, quantizes, verifies, writes the card, uploads."""
