"""The network in plain MLX operations: one component of the paper per file.

Shapes are written with one alphabet throughout:

    B batch · L new tokens · S cached + new tokens · C hidden size · V vocabulary
    H query heads · K key/value heads · D head_dim · F feed-forward size · E experts

Leaves take numbers; blocks take the `Qwen3Config`. Attribute paths are checkpoint keys.
"""

import qwen3_mlx.device.backend  # noqa: F401  (chooses the BLAS before mlx is imported)
