"""Kernels of our own: Metal text, for Metal, for CUDA behind a header, for a CPU in tests.

One kernel is a triple: ``x.metal``, ``x.py`` (float32 reference, wrapper, ``supported()``) and
``tests/metal/test_x.py``. What runs where, and why not, is said by `qwen3_mlx.metal.dispatch`.
"""

import qwen3_mlx.device.backend  # noqa: F401  (chooses the BLAS before mlx is imported)
