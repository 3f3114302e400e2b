"""FP8: ``weight`` in float8_e4m3 and its scale: for the tensor, for each row, or for each block.

Qwen's releases have a ``weight_scale_inv`` per block of 128 x 128; files of vLLM and transformers a
``weight_scale``. Scales of activations and the KV cache (``input_scale``, ``k_scale``) don't affect
the weights. transformers 5 stores all experts of a layer, and their scales, in one array:
``experts.gate_up_proj [E, 2 I, H]`` and ``experts.gate_up_proj_scale_inv``.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace

from qwen3_mlx.checkpoint.tensor_info import TensorInfo
from qwen3_mlx.config.packing import Packing
from qwen3_mlx.quantize.formats.parts import Part, PlainPart, Tensors
from qwen3_mlx.quantize.formats.scaled import scaled_part

_CODES = re.compile(r"(.*\.mlp)\.switch_mlp\.(gate_proj|up_proj|down_proj)\.weight")
_SCALES = re.compile(
    r"(.*\.mlp\.experts)\.(gate_up_proj|gate_proj|up_proj|down_proj)"
    r"(?:\.weight)?(_scale_inv|_scale)"
)


def one_by_one(tensors: Tensors, packing: Packing) -> Tensors:
    """The tensors, with experts that share an array, and their scales, split into single ones.

    A scale block that spans rows of both gate and up can't be split, so its matrices get no scale.
    """
    found: Tensors = {}
    for name, info in tensors.items():
        if (codes := _CODES.fullmatch(name)) and info.dtype == "F8_E4M3" and len(info.shape) == 3:
            for n, one in enumerate(_cut(info, info.shape[0], info.shape[1:])):
                found[f"{codes[1]}.experts.{n}.{codes[2]}.weight"] = one
        elif (scale := _SCALES.fullmatch(name)) and info.shape:
            found |= _scales(tensors, info, scale, packing) or {name: info}
        else:
            found[name] = info
    return found


def _scales(tensors: Tensors, info: TensorInfo, match: re.Match[str], packing: Packing) -> Tensors:
    """An array of scales split by expert and matrix; empty if it can't be split."""
    path, kind, suffix = match.groups()
    count, each = info.shape[0], info.shape[1:] or (1,)
    if not count or not info.nbytes:
        return {}
    if kind != "gate_up_proj":
        parts = _cut(info, count, each)
        return {f"{path}.{n}.{kind}.weight{suffix}": one for n, one in enumerate(parts)}
    shared = math.prod(each) == 1  # one scale for the whole expert
    high = (packing.settings.get("weight_block_size") or (1,))[0]
    gate = tensors.get(f"{path}.0.gate_proj.weight")
    if not shared and (gate is None or each[0] % 2 or each[0] * high != 2 * gate.shape[0]):
        return {}
    halves = 1 if shared else 2
    parts = _cut(info, count * halves, (each[0] // halves, *each[1:]))
    return {
        f"{path}.{n // 2}.{('gate_proj', 'up_proj')[n % 2]}.weight{suffix}": parts[n * halves // 2]
        for n in range(2 * count)
    }


def _cut(info: TensorInfo, count: int, shape: tuple[int, ...]) -> list[TensorInfo]:
    size = info.nbytes // count if count else 0
    cut = replace(info, shape=shape, nbytes=size, part_of_tensor=True)
    return [replace(cut, offset=info.offset + n * size) for n in range(count)]


def part(tensors: Tensors, path: str, packing: Packing) -> Part | None:
    """The matrix at `path`, or None where the checkpoint has none. Raises `CheckpointError`."""
    weight = tensors.get(f"{path}.weight")
    if weight is None or weight.dtype != "F8_E4M3":
        return None if weight is None else PlainPart(weight)
    scale = tensors.get(f"{path}.weight_scale_inv") or tensors.get(f"{path}.weight_scale")
    size = packing.settings.get("weight_block_size")
    return scaled_part(weight, scale, (size[0], size[1]) if size else None)
