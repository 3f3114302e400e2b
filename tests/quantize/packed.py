"""More packings, bit by bit from their definitions: compressed-tensors, bitsandbytes and others.

Sources: compressed-tensors' pack-quantized (half the range is added, lowest bits first, zeros
packed along the outputs) and nvfp4-pack-quantized (E2M1, the even column in the lower half, a
group's scale divided by the tensor's); QLoRA's NF4 (the first code in the upper half, blocks of 64
in one line, absmax packed again in blocks of 256); LLM.int8 (SCB is a row's largest value); GPTQ
with 3 bits (ten values and two bits of the next in the first of three words); AutoAWQ's GEMV.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from tests.quantize.build import Array, Codes8, Stored
from tests.quantize.foreign import e4m3_table, gptq, random_codes, words_of

Pack = tuple[dict[str, Stored], Array]
Rng = np.random.Generator
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
_LOW = (-1.0, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0.0)
_HIGH = (0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0)
NF4 = np.array([*_LOW, *_HIGH], np.float32)


def _scales(rng: Rng, shape: tuple[int, ...], size: float = 0.02) -> Array:
    return (rng.uniform(0.5, 2.0, shape) * size).astype(np.float32)


def gptq3(rng: Rng, shape: tuple[int, int], group: int = 64) -> Pack:
    """3 bits, first version: 32 values in three words, along the inputs and for zeros."""
    outputs, inputs = shape
    q = rng.integers(0, 8, (inputs, outputs))
    z = rng.integers(0, 8, (inputs // group, outputs))
    s = _scales(rng, (inputs // group, outputs)).astype(np.float16)
    tensors: dict[str, Stored] = {
        "qweight": words_of(q.T, 3).T,
        "qzeros": words_of((z - 1) % 8, 3),
        "scales": s,
    }
    index = np.arange(inputs) // group
    return tensors, ((q - z[index]).astype(np.float32) * s[index].astype(np.float32)).T


def gptq_symmetric(rng: Rng, shape: tuple[int, int], group: int = 64, *, stored: int = 7) -> Pack:
    """4 bits around 8, which is stored as it is (AutoRound's Triton layer) or as 7."""
    outputs, inputs = shape
    q = rng.integers(0, 16, (inputs, outputs))
    s = _scales(rng, (inputs // group, outputs)).astype(np.float16)
    tensors: dict[str, Stored] = {
        "qweight": words_of(q.T, 4).T,
        "qzeros": words_of(np.full((inputs // group, outputs), stored), 4),
        "scales": s,
        "g_idx": (np.arange(inputs) // group).astype(np.int32),
    }
    index = np.arange(inputs) // group
    return tensors, ((q - 8).astype(np.float32) * s[index].astype(np.float32)).T


def gptq_mixed() -> Callable[[Rng, tuple[int, int]], Pack]:
    """4 and 8 bits by turns, which each matrix's shapes tell."""
    turns = itertools.cycle([partial(gptq, bits=4), partial(gptq, bits=8)])
    return lambda rng, shape: next(turns)(rng, shape)


def awq_gemv(rng: Rng, shape: tuple[int, int], group: int = 64) -> Pack:
    """Outputs in rows; zeros and scales padded to whole words."""
    outputs, inputs = shape
    groups = inputs // group
    q, z = rng.integers(0, 16, shape), rng.integers(0, 16, (outputs, groups))
    s = _scales(rng, (outputs, groups)).astype(np.float16)
    pad = [(0, 0), (0, -groups % 16)]
    tensors: dict[str, Stored] = {
        "qweight": words_of(q, 4),
        "qzeros": words_of(np.pad(z, pad), 4),
        "scales": np.pad(s, pad),
    }
    index = np.arange(inputs) // group
    return tensors, (q - z[:, index]).astype(np.float32) * s[:, index].astype(np.float32)


def fp8(rng: Rng, shape: tuple[int, int], kind: str) -> Pack:
    """A scale for the tensor, or one a row; and scales of activations, to be passed over."""
    codes = random_codes(rng, shape)
    scale = _scales(rng, (1,) if kind == "tensor" else (shape[0], 1), 1e-3)
    dense = e4m3_table()[codes].astype(np.float32) * scale
    one = np.ones(1, np.float32)
    return {
        "weight": Codes8(codes),
        "weight_scale": scale,
        "input_scale": one,
        "k_scale": one,
    }, dense


def words(
    rng: Rng, shape: tuple[int, int], *, bits: int = 4, zeros: bool = False, order: bool = False
) -> Pack:
    """compressed-tensors' pack-quantized."""
    rows, columns = shape
    half, groups = 2 ** (bits - 1), columns // 64
    q = rng.integers(-half, half, shape)
    z = rng.integers(-half, half, (rows, groups)) if zeros else np.zeros((rows, groups), int)
    s = _scales(rng, (rows, groups))
    index = np.arange(columns) // 64
    tensors: dict[str, Stored] = {}
    if order:
        rng.shuffle(index)
        tensors["weight_g_idx"] = index.astype(np.int32)
    if zeros:
        tensors["weight_zero_point"] = words_of(z.T + half, bits).T
    tensors |= {
        "weight_packed": words_of(q + half, bits),
        "weight_scale": s,
        "weight_shape": np.array(shape, np.int64),
    }
    return tensors, (q - z[:, index]).astype(np.float32) * s[:, index]


def int8(rng: Rng, shape: tuple[int, int], name: str = "weight_scale") -> Pack:
    """int8 and a scale a row: compressed-tensors', or bitsandbytes' SCB."""
    codes = rng.integers(-127, 128, shape, dtype=np.int8)
    scale = _scales(rng, (shape[0], 1) if name == "weight_scale" else (shape[0],))
    each = (scale / np.float32(127) if name == "SCB" else scale).reshape(-1, 1)
    return {"weight": codes, name: scale}, codes.astype(np.float32) * each


def nvfp4(rng: Rng, shape: tuple[int, int]) -> Pack:
    """E2M1 in bytes, E4M3 scales for 16, one float32 for all."""
    rows, columns = shape
    codes = rng.integers(0, 16, shape)
    scale = rng.integers(0x30, 0x70, (rows, columns // 16), dtype=np.uint8)
    overall = np.array([937.5], np.float32)
    values = E2M1[codes & 7] * np.where(codes & 8, -1, 1).astype(np.float32)
    each = np.repeat(e4m3_table()[scale].astype(np.float32) / overall, 16, axis=1)
    packed = (codes[:, ::2] | (codes[:, 1::2] << 4)).astype(np.uint8)
    names = ("weight_packed", "weight_scale", "weight_global_scale", "input_global_scale")
    return dict(zip(names, (packed, Codes8(scale), overall, overall), strict=True)), values * each


def state_of(said: dict[str, Any]) -> Array:
    """bitsandbytes' quant_state: JSON in bytes."""
    return np.frombuffer(json.dumps(said).encode(), np.uint8)


def said_of(state: Stored) -> dict[str, Any]:
    """What it says."""
    return dict(json.loads(np.asarray(state).tobytes()))


def nf4(
    rng: Rng, shape: tuple[int, int], *, double: bool = False, stated: list[int] | None = None
) -> Pack:
    """NF4 in blocks of 64; `double` packs their largest values too. `stated` is a 3-D shape."""
    count = shape[0] * shape[1]
    codes = rng.integers(0, 16, count)
    said = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": stated or [*shape]}
    tensors: dict[str, Stored] = {
        "weight": (codes[::2] << 4 | codes[1::2]).astype(np.uint8).reshape(-1, 1),
        "weight.quant_map": NF4,
    }
    absmax = _scales(rng, (count // 64,))
    if double:
        table = np.linspace(-1, 1, 256, dtype=np.float32)
        inner = rng.integers(128, 256, count // 64, dtype=np.uint8)
        outer = _scales(rng, (-(-len(inner) // 256),))
        tensors |= {"weight.nested_absmax": outer, "weight.nested_quant_map": table}
        said |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.5}
        absmax = table[inner] * np.repeat(outer, 256)[: len(inner)] + np.float32(0.5)
    tensors["weight.absmax"] = inner if double else absmax
    tensors["weight.quant_state.bitsandbytes__nf4"] = state_of(said)
    return tensors, (NF4[codes] * np.repeat(absmax, 64)).reshape(shape)
