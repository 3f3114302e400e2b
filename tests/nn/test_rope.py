"""Rotary embedding: rotations by hand, and YaRN's frequencies against transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from qwen3_mlx.config.network import Rope, Yarn
from qwen3_mlx.nn.rope import RotaryEmbedding, wavelengths
from tests.oracle import assert_close

YARN = json.loads((Path(__file__).parents[1] / "golden" / "yarn.json").read_text())


def rotated(x: np.ndarray, frequencies: np.ndarray, offset: int, scale: float) -> np.ndarray:
    """Rotate the pairs (i, i + D/2) of x [B, H, L, D] in float64."""
    angles = (offset + np.arange(x.shape[2]))[:, None] * frequencies  # [L, D/2]
    cos, sin = np.cos(angles) * scale, np.sin(angles) * scale
    a, b = np.split(x.astype(np.float64), 2, axis=-1)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def rope_of(case: dict[str, Any]) -> Rope:
    return Rope(case["theta"], Yarn(**case["scaling"]))


@pytest.mark.parametrize("case", YARN, ids=lambda c: f"{c['head_dim']}-{c['theta']:g}")
def test_yarn_equals_transformers(case: dict[str, Any]) -> None:
    rope = rope_of(case)
    assert rope.scaling is not None
    assert rope.scaling.mscale == pytest.approx(case["attention"], rel=1e-7)
    frequencies = 1 / np.array(wavelengths(case["head_dim"], rope), np.float64)
    # Each by itself: in a sum over all, the slow dimensions would not count. Both sides round
    # powers of theta to float32.
    np.testing.assert_allclose(frequencies, case["frequencies"], rtol=1e-6)


@pytest.mark.parametrize("case", YARN[:3], ids=lambda c: f"factor {c['scaling']['factor']:g}")
@pytest.mark.parametrize("offset", [0, 1, 1000])
def test_yarn_rotates_and_scales(case: dict[str, Any], offset: int) -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 5, case["head_dim"])).astype(np.float32)
    got = RotaryEmbedding(case["head_dim"], rope_of(case))(mx.array(x), offset)
    want = rotated(x, np.array(case["frequencies"]), offset, case["attention"])
    # Angles of up to 1,000 radians carry float32's rounding of 3e-5, squared.
    assert_close(got, want, bound=1e-9)


@pytest.mark.parametrize("theta", [1e4, 1e6, 1e7])
@pytest.mark.parametrize("head_dim", [6, 64, 128])
@pytest.mark.parametrize("offset", [0, 1, 1000])
def test_plain_rotation(head_dim: int, theta: float, offset: int) -> None:
    x = np.random.default_rng(1).normal(size=(2, 3, 5, head_dim)).astype(np.float32)
    got = RotaryEmbedding(head_dim, Rope(theta))(mx.array(x), offset)
    frequencies = theta ** (-np.arange(0, head_dim, 2) / head_dim)
    # As above.
    assert_close(got, rotated(x, frequencies, offset, 1.0), bound=1e-9)


def test_two_ropes_do_not_share_their_tables() -> None:
    """A cache keyed by less than all it depends on gives the second rope the first one's table."""
    tables = [
        wavelengths(128, Rope(theta, Yarn(factor, original)))
        for theta in (1e6, 5e6)
        for factor in (2.0, 4.0)
        for original in (32768, 262144)
    ]
    assert len({tuple(table.tolist()) for table in tables}) == 8
