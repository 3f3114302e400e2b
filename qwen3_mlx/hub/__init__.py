"""Finds a model's files by its name: releases, the hub's cache, downloads. No MLX."""
