"""Each block type against its definition, weight by weight, and against the gguf package."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from qwen3_mlx.checkpoint.gguf_blocks import decode
from qwen3_mlx.checkpoint.gguf_read import pack_words
from qwen3_mlx.gguf.describe import EXACT_BITS
from qwen3_mlx.gguf.header import BLOCKS
from tests import oracle
from tests.gguf import blocks as definition


def test_every_packed_type_is_tried() -> None:
    assert set(BLOCKS) == {*definition.WEIGHTS, "F32", "F16", "BF16"}
    assert {kind: BLOCKS[kind] for kind in definition.SIZES} == definition.SIZES


@pytest.mark.parametrize("kind", definition.WEIGHTS)
def test_a_block_is_what_its_definition_says(kind: str) -> None:
    blocks = definition.random_blocks(np.random.default_rng(1), kind, 12)
    got = decode(kind, mx.array(blocks)).dense()
    oracle.assert_close(got, definition.dense(kind, blocks), bound=1e-13)


@pytest.mark.parametrize("kind", definition.WEIGHTS)
def test_the_gguf_package_reads_the_same(kind: str) -> None:
    gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")
    blocks = definition.random_blocks(np.random.default_rng(2), kind, 64)
    want = gguf.dequantize(blocks, gguf.GGMLQuantizationType[kind])
    oracle.assert_close(decode(kind, mx.array(blocks)).dense(), want, bound=1e-13)


@pytest.mark.parametrize("kind", EXACT_BITS)
def test_mlx_computes_the_same_from_the_same_codes(kind: str) -> None:
    blocks = definition.random_blocks(np.random.default_rng(3), kind, 16)
    codes = decode(kind, mx.array(blocks))
    lines = [array.reshape(4, -1) for array in codes]
    words = pack_words(lines[0], EXACT_BITS[kind])
    got = mx.dequantize(words, lines[1], lines[2], group_size=32, bits=EXACT_BITS[kind])
    oracle.assert_close(got.reshape(16, -1), codes.dense(), bound=1e-13)
