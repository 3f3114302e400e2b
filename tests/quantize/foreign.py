"""FP8, AWQ and GPTQ checkpoints, packed nibble by nibble, and what they mean in float.

Sources: OCP's float8 E4M3 (no infinities, S.1111.111 is NaN); DeepSeek's and Qwen's FP8 releases
(``weight_scale_inv`` multiplies a block of 128 x 128); AutoAWQ's GEMM packing (AWQ_ORDER);
AutoGPTQ's QuantLinear (inputs along the int32, zeros stored minus one in the first version).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from tests.quantize.build import Array, Bits16, Codes8, Stored, bf16, random_weights

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def e4m3_table() -> Array:
    """The value of each of the 256 codes, float64."""
    values = np.zeros(256)
    for code in range(256):
        sign = -1.0 if code & 0x80 else 1.0
        exponent, mantissa = (code >> 3) & 15, code & 7
        if exponent == 15 and mantissa == 7:
            values[code] = math.nan
        elif exponent == 0:
            values[code] = sign * mantissa * 2.0**-9
        else:
            values[code] = sign * (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    return values


def random_codes(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Every code there is but NaN."""
    codes = rng.integers(0, 256, shape, dtype=np.uint8)
    return np.where((codes & 0x7F) == 0x7F, np.uint8(0x38), codes)


def fp8(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[dict[str, Stored], Array]:
    """``weight`` and ``weight_scale_inv``, and the product in float32."""
    codes = random_codes(rng, shape)
    blocks = (-(-shape[0] // 128), -(-shape[1] // 128))
    # small, because e4m3 reaches 448
    scale = (rng.uniform(0.5, 2.0, blocks) * 1e-3).astype(np.float32)
    wide = np.repeat(np.repeat(scale, 128, 0), 128, 1)[: shape[0], : shape[1]]
    dense = e4m3_table()[codes].astype(np.float32) * wide
    return {"weight": Codes8(codes), "weight_scale_inv": scale}, dense


def _int4(rng: np.random.Generator, shape: tuple[int, int], groups: int) -> tuple[Array, ...]:
    outputs, inputs = shape
    q = rng.integers(0, 16, (inputs, outputs))
    z = rng.integers(0, 16, (groups, outputs))
    s = (rng.uniform(0.5, 2.0, (groups, outputs)) * 0.02).astype(np.float16)
    return q, z, s


def words_of(fields: Array, bits: int) -> Array:
    """``[n, m]`` to int32 ``[n, m * bits / 32]``: one long string of bits a row, lowest first."""
    line = (fields[..., None].astype(np.uint32) >> np.arange(bits, dtype=np.uint32)) & 1
    line = line.reshape(len(fields), -1)
    line = np.pad(line, [(0, 0), (0, -line.shape[1] % 32)])
    values = line.reshape(len(fields), -1, 32) << np.arange(32, dtype=np.uint32)
    return np.ascontiguousarray(values.sum(-1, dtype=np.uint32)).view(np.int32)


def awq(
    rng: np.random.Generator, shape: tuple[int, int], group: int = 64
) -> tuple[dict[str, Stored], Array]:
    """``qweight``, ``qzeros``, ``scales``; and the weights in float32, ``[out, in]``."""
    q, z, s = _int4(rng, shape, shape[1] // group)

    def pack(x: Array) -> Array:
        return words_of(x.reshape(len(x), -1, 8)[:, :, list(AWQ_ORDER)].reshape(x.shape), 4)

    index = np.arange(shape[1]) // group
    dense = (q - z[index]).astype(np.float32) * s[index].astype(np.float32)
    return {"qweight": pack(q), "qzeros": pack(z), "scales": s}, dense.T


def gptq(
    rng: np.random.Generator,
    shape: tuple[int, int],
    group: int = 64,
    *,
    bits: int = 4,
    version: int = 1,
    act_order: bool = False,
    with_index: bool = True,
) -> tuple[dict[str, Stored], Array]:
    """``qweight``, ``qzeros``, ``scales``, ``g_idx``; and the weights in float32, ``[out, in]``."""
    outputs, inputs = shape
    groups, top = inputs // group, 2**bits
    q = rng.integers(0, top, (inputs, outputs))
    z = rng.integers(0, top, (groups, outputs))
    s = (rng.uniform(0.5, 2.0, (groups, outputs)) * 0.02).astype(np.float16)
    index = np.arange(inputs) // group
    if act_order:
        rng.shuffle(index)
    stored = (z - 1) % top if version == 1 else z
    tensors: dict[str, Stored] = {
        "qweight": np.ascontiguousarray(words_of(q.T, bits).T),
        "qzeros": words_of(stored, bits),
        "scales": s,
    }
    if with_index:
        tensors["g_idx"] = index.astype(np.int32)
    dense = (q - z[index]).astype(np.float32) * s[index].astype(np.float32)
    return tensors, dense.T


def model(
    config: Mapping[str, Any], pack: Any, floats: Any = bf16, packs: str = "_proj"
) -> tuple[dict[str, Stored], dict[str, Array]]:
    """A whole checkpoint, and its floats: ``pack(rng, shape)`` packs what has `packs` at its end.

    `packs` is a regular expression.
    """
    rng = np.random.default_rng(7)
    tensors: dict[str, Stored] = {}
    dense: dict[str, Array] = {}
    for name, x in random_weights(config).items():
        path = name.removesuffix(".weight")
        if not re.search(f"({packs})$", path):
            tensors[name] = floats(x)
            stored = tensors[name]
            dense[name] = (
                (stored.bits.astype(np.uint32) << 16).view(np.float32)
                if isinstance(stored, Bits16)
                else stored.astype(np.float32)
            )
            continue
        packed, dense[name] = pack(rng, x.shape)
        tensors |= {f"{path}.{kind}": value for kind, value in packed.items()}
    return tensors, dense
