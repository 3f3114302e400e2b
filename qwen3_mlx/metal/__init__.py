"""Kernels of our own: Metal text, for Metal, for CUDA behind a header, for a CPU in tests.

One kernel is a triple: ``x.metal``, ``x.py`` (float32 reference, wrapper, ``unsupported_reason``)
and ``tests/metal/test_x.py``. `dispatch` says which run here, and why the others don't; `variants`
lists those that a network uses.
"""

import qwen3_mlx.device.backend  # noqa: F401  (chooses the BLAS before mlx is imported)
