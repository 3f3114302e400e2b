"""Computing now what would be computed later, so that memory is free before more is taken.

MLX allocates ahead of what it computes: what a lazy graph needs together is not what is alive in
Python, but all that some hundred operations make (docs/log.md).
"""

from __future__ import annotations

import mlx.core as mx


def settle(*arrays: mx.array) -> bool:
    """Compute `arrays` now, so that what they needed is free; False inside `mx.compile`."""
    try:
        mx.eval(*arrays)
    except ValueError:  # "Attempting to eval an array during function transformations"
        return False
    return True
