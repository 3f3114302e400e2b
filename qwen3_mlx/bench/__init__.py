"""Benchmarks: rates beside mlx-lm's, and networks of published shapes with random weights."""
