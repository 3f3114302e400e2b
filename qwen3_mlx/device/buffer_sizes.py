"""Sizes the network allocates by, and with which `qwen3_mlx.fit` counts memory; no MLX needed."""

from __future__ import annotations

BLOCK = 256
"""Positions of a block: the cache's buffers hold whole blocks."""

SCORES = 2**25
"""Bytes of float32 scores that attention without a fused kernel holds at once."""

UNPACK_ROWS = {"cpu": 8, "cuda": 128, "metal": 512}
"""Rows from which unpacking a matrix pays. CPU: measured, 17 ms against 5 at 8 rows of a 3072x1024
matrix. CUDA: computed from 106 TFLOP/s packed, 500 plain and 4.6 bytes a weight at 3.5 TB/s (87
rows). Metal: a guess."""
