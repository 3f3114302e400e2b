"""Allocation sizes of the network, which `qwen3_mlx.fit` uses too. No MLX."""

from __future__ import annotations

BLOCK = 256
"""Positions per block; the cache's buffers have whole blocks."""

SCORES = 2**25
"""Most bytes of float32 scores that attention without a fused kernel holds at once."""

COMPOSED_SCORES = {"cuda": 2**27}
"""Most bytes of float32 scores up to which attention is composed of products, though MLX has a
fused kernel. On CUDA that is cuDNN's, which takes some 0.1 s to plan each new pair of lengths in
each process (H200), and prompts rarely repeat one; composed, 8B takes 10 ms for 1,024 tokens."""

UNPACK_ROWS = {"cpu": 8, "cuda": 8, "metal": 512}
"""Rows from which unpacking a matrix pays. CPU: measured, 17 ms packed and 5 ms unpacked for 8 rows
of a 3072x1024 matrix. CUDA: from 8 rows on MLX's packed product takes its compiler 43 s in each
process (H200), and unpacking 8B some 10 ms; compiled, it would be faster up to 87 rows (106 TFLOP/s
packed, 500 unpacked, 4.6 bytes per weight at 3.5 TB/s). Metal: a guess."""

UNPACK_ROWS_PER_EXPERT = {"cpu": 4, "cuda": 8, "metal": 64}
"""Mean rows per expert from which unpacking all experts pays. CPU: measured. CUDA: computed from
2.2 µs per packed row and 1.2 ms for all 128 experts of 30B-A3B (4.3). Metal: a guess."""
