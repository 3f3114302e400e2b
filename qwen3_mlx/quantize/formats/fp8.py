"""FP8: ``weight`` in float8_e4m3 and its scale: for the tensor, for each row, or for each block.

Qwen's releases have a ``weight_scale_inv`` a block of 128 x 128; vLLM's and transformers' files a
``weight_scale``. Scales of activations and of the KV cache (``input_scale``, ``k_scale``) say
nothing of the weights.
"""

from __future__ import annotations

from qwen3_mlx.config.packing import Packing
from qwen3_mlx.quantize.formats.parts import Part, PlainPart, Tensors
from qwen3_mlx.quantize.formats.scaled import scaled_part


def part(tensors: Tensors, path: str, packing: Packing) -> Part | None:
    """The matrix at `path`, or None where the checkpoint has none. Raises `CheckpointError`."""
    weight = tensors.get(f"{path}.weight")
    if weight is None or weight.dtype != "F8_E4M3":
        return None if weight is None else PlainPart(weight)
    scale = tensors.get(f"{path}.weight_scale_inv") or tensors.get(f"{path}.weight_scale")
    size = packing.settings.get("weight_block_size")
    return scaled_part(weight, scale, (size[0], size[1]) if size else None)
