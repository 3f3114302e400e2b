"""Our own kernels: Metal source for Metal, for CUDA (with a header), and for a CPU in tests.

One kernel is a triple: ``x.metal``, ``x.py`` (float32 reference, wrapper, ``unsupported_reason``)
and ``tests/metal/test_x.py``. `dispatch` decides which kernels run on this machine, and gives a
reason for the others; `variants` lists the kernels that a network uses.
"""

import qwen3_mlx.device.backend  # noqa: F401  (chooses the BLAS before mlx is imported)
