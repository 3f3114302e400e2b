"""Allocation sizes of the network, which `qwen3_mlx.fit` uses too. No MLX."""

from __future__ import annotations

BLOCK = 256
"""Positions per block; the cache's buffers have whole blocks."""

SCORES = 2**25
"""Most bytes of float32 scores that attention without a fused kernel holds at once."""

UNPACK_ROWS = {"cpu": 8, "cuda": 128, "metal": 512}
"""Rows from which unpacking a matrix pays. CPU: measured, 17 ms packed and 5 ms unpacked for 8 rows
of a 3072x1024 matrix. CUDA: computed from 106 TFLOP/s packed, 500 unpacked and 4.6 bytes per weight
at 3.5 TB/s (87 rows). Metal: a guess."""
