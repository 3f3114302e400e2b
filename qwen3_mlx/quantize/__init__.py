"""Conversion: read any packing, quantize as it streams, verify, write the card, upload."""
