"""GGUF's block types, one weight at a time from their definitions (ggml-common.h, ggml-quants.c).

Nothing here is vectorised or uses MLX or the package: a block of random bytes whose scales are
ordinary numbers, and the weights that it means, in float64.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np

from tests.quantize.build import Array

Rng = np.random.Generator
IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
SIZES = {
    "Q4_0": (32, 18),
    "Q4_1": (32, 20),
    "Q5_0": (32, 22),
    "Q5_1": (32, 24),
    "Q8_0": (32, 34),
    "Q2_K": (256, 84),
    "Q3_K": (256, 110),
    "Q4_K": (256, 144),
    "Q5_K": (256, 176),
    "Q6_K": (256, 210),
    "IQ4_NL": (32, 18),
    "IQ4_XS": (256, 136),
}
# Where the float16 scales of a block stand; all other bytes may be anything.
HALVES = {
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "IQ4_NL": (0,),
    "IQ4_XS": (0,),
}


def half(block: bytes, at: int) -> float:
    return float(struct.unpack_from("<e", block, at)[0])


def nibble(block: bytes, at: int, place: int) -> int:
    """Weight `place` of 32 in 16 bytes: the lower halves come first."""
    return block[at + place] & 15 if place < 16 else block[at + place - 16] >> 4


def fifth(block: bytes, at: int, place: int) -> int:
    return (struct.unpack_from("<I", block, at)[0] >> place) & 1


def scale_min(block: bytes, at: int, j: int) -> tuple[int, int]:
    """get_scale_min_k4: scale and minimum j of 8, 6 bits each, in 12 bytes."""
    q = block[at : at + 12]
    if j < 4:
        return q[j] & 63, q[j + 4] & 63
    scale = (q[j + 4] & 15) | ((q[j - 4] >> 6) << 4)
    return scale, (q[j + 4] >> 4) | ((q[j] >> 6) << 4)


def q4_0(b: bytes, i: int) -> float:
    return half(b, 0) * (nibble(b, 2, i) - 8)


def q4_1(b: bytes, i: int) -> float:
    return half(b, 0) * nibble(b, 4, i) + half(b, 2)


def q5_0(b: bytes, i: int) -> float:
    return half(b, 0) * ((nibble(b, 6, i) | fifth(b, 2, i) << 4) - 16)


def q5_1(b: bytes, i: int) -> float:
    return half(b, 0) * (nibble(b, 8, i) | fifth(b, 4, i) << 4) + half(b, 2)


def q8_0(b: bytes, i: int) -> float:
    return half(b, 0) * int(struct.unpack_from("<b", b, 2 + i)[0])


def two_bits(b: bytes, at: int, i: int) -> int:
    """Weight i of 256: 128 a half, four of 32 in the same 32 bytes, two bits each."""
    part, place = divmod(i, 128)
    return (b[at + 32 * part + place % 32] >> 2 * (place // 32)) & 3


def q2_k(b: bytes, i: int) -> float:
    packed = b[i // 16]
    return half(b, 80) * (packed & 15) * two_bits(b, 16, i) - half(b, 82) * (packed >> 4)


def q3_k(b: bytes, i: int) -> float:
    group = i // 16
    low = b[96 + group] & 15 if group < 8 else b[96 + group - 8] >> 4
    scale = low | ((b[104 + group % 4] >> 2 * (group // 4)) & 3) << 4
    mask = (b[i % 32] >> (i // 32)) & 1
    return half(b, 108) * (scale - 32) * (two_bits(b, 32, i) - (0 if mask else 4))


def four_bits(b: bytes, at: int, i: int) -> int:
    """Weight i of 256: 64 in 32 bytes, the lower halves come first."""
    part, place = divmod(i, 64)
    byte = b[at + 32 * part + place % 32]
    return byte & 15 if place < 32 else byte >> 4


def q4_k(b: bytes, i: int) -> float:
    scale, least = scale_min(b, 4, i // 32)
    return half(b, 0) * scale * four_bits(b, 16, i) - half(b, 2) * least


def q5_k(b: bytes, i: int) -> float:
    scale, least = scale_min(b, 4, i // 32)
    code = four_bits(b, 48, i) | ((b[16 + i % 32] >> (i // 32)) & 1) << 4
    return half(b, 0) * scale * code - half(b, 2) * least


def q6_k(b: bytes, i: int) -> float:
    part, place = divmod(i, 128)
    quarter, lane = divmod(place, 32)
    byte = b[64 * part + lane + 32 * (quarter % 2)]
    low = byte & 15 if quarter < 2 else byte >> 4
    high = (b[128 + 32 * part + lane] >> 2 * quarter) & 3
    scale = struct.unpack_from("<b", b, 192 + i // 16)[0]
    return half(b, 208) * int(scale) * ((low | high << 4) - 32)


def iq4_nl(b: bytes, i: int) -> float:
    return half(b, 0) * IQ4[nibble(b, 2, i)]


def iq4_xs(b: bytes, i: int) -> float:
    j, place = divmod(i, 32)
    low = (b[4 + j // 2] >> 4 * (j % 2)) & 15
    high = (struct.unpack_from("<H", b, 2)[0] >> 2 * j) & 3
    return half(b, 0) * ((low | high << 4) - 32) * IQ4[nibble(b, 8 + 16 * j, place)]


WEIGHTS: dict[str, Callable[[bytes, int], float]] = {
    "Q4_0": q4_0,
    "Q4_1": q4_1,
    "Q5_0": q5_0,
    "Q5_1": q5_1,
    "Q8_0": q8_0,
    "Q2_K": q2_k,
    "Q3_K": q3_k,
    "Q4_K": q4_k,
    "Q5_K": q5_k,
    "Q6_K": q6_k,
    "IQ4_NL": iq4_nl,
    "IQ4_XS": iq4_xs,
}
# What brings a block's weights to about 0.1, whatever its codes are.
_SIZE = {"Q8_0": 1e-3, "Q3_K": 1e-3, "Q6_K": 5e-5, "IQ4_NL": 1e-3, "IQ4_XS": 5e-5}
_SIZE |= {"Q4_K": 2e-4, "Q5_K": 1e-4, "Q2_K": 2e-3}


def random_blocks(rng: Rng, kind: str, count: int) -> Array:
    """uint8 ``[count, bytes of a block]``."""
    blocks = rng.integers(0, 256, (count, SIZES[kind][1]), dtype=np.uint8)
    for at in HALVES[kind]:
        values = rng.uniform(0.5, 2, count) * _SIZE.get(kind, 0.01)
        blocks[:, at : at + 2] = values.astype(np.float16)[:, None].view(np.uint8)
    return blocks


def dense(kind: str, blocks: Array) -> Array:
    """The weights, float32 ``[n, weights in a block]``."""
    weigh, size = WEIGHTS[kind], SIZES[kind][0]
    rows = [[weigh(line.tobytes(), i) for i in range(size)] for line in blocks]
    return np.array(rows, np.float64).astype(np.float32)
