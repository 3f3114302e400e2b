"""Positions up to a million: no worse than float32 must be, and for YaRN than transformers is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from qwen3_mlx.checkpoint import load_network
from qwen3_mlx.config.network import Rope, Yarn
from qwen3_mlx.nn.rope import RotaryEmbedding, rotation_table, speeds, wavelengths

LONG = Path(__file__).parents[1] / "golden" / "long"
CASES = sorted(path.name for path in LONG.iterdir())
RUN = 12
"""Tokens of each of the goldens' three runs of positions."""


def relative(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.sqrt(np.sum((got - want) ** 2) / np.sum(want**2)))


def at_far_positions(
    monkeypatch: pytest.MonkeyPatch, name: str, positions: np.ndarray, tokens: np.ndarray
) -> np.ndarray:
    """Our logits [L, V]; each run of tokens turned as if it stood at its far position."""
    starts = {row: int(positions[row]) for row in range(0, len(tokens), RUN)}
    turn = RotaryEmbedding.__call__

    def far(self: RotaryEmbedding, x: mx.array, offset: Any) -> mx.array:
        return turn(self, x, starts[offset])

    monkeypatch.setattr(RotaryEmbedding, "__call__", far)
    network, _ = load_network(LONG / name)
    cache = network.make_cache()
    parts = [network(mx.array(tokens[None, row : row + RUN]), cache) for row in starts]
    return np.array(mx.concatenate(parts, axis=1)[0], np.float64)


@pytest.mark.parametrize("name", CASES)
def test_yarn_at_131072_is_as_exact_as_transformers(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with np.load(LONG / name / "expected.npz") as file:
        tokens, positions, want = file["tokens"], file["positions"], file["logits"]
        theirs = float(file["error"])
    assert positions.max() == 131_071
    got = at_far_positions(monkeypatch, name, positions, tokens)
    assert relative(got, want) <= 1.5 * theirs


def turned(x: np.ndarray, rope: Rope, offset: int, exact: bool) -> np.ndarray:
    """The rotation in float64, or with speeds and angles rounded as float32 must round them."""
    speed = np.array(speeds(x.shape[-1], rope))
    at = offset + np.arange(x.shape[2], dtype=np.float64)
    if exact:
        angle = at[:, None] * speed
    else:
        angle = (at.astype(np.float32)[:, None] * speed.astype(np.float32)).astype(np.float64)
    scale = rope.scaling.mscale if rope.scaling else 1.0
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    a, b = np.split(x.astype(np.float64), 2, axis=-1)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


ROPES = {
    "2504": Rope(1e6),
    "2507": Rope(1e7),
    "131k": Rope(1e6, Yarn(4.0, 32768)),
    "1M": Rope(1e7, Yarn(4.0, 262144)),
}


@pytest.mark.parametrize("offset", [4_096, 131_000, 262_100, 1_048_000])
@pytest.mark.parametrize("name", ROPES)
def test_positions_to_a_million(name: str, offset: int) -> None:
    """The error is that of a float32 angle: its inputs are rounded, and so is it."""
    x = np.random.default_rng(0).normal(size=(1, 2, 64, 128)).astype(np.float32)
    got = np.array(RotaryEmbedding(128, ROPES[name])(mx.array(x), offset), np.float64)
    want = turned(x, ROPES[name], offset, exact=True)
    least = relative(turned(x, ROPES[name], offset, exact=False), want)
    assert relative(got, want) <= 1.5 * least + 1e-6


def test_positions_themselves_are_exact() -> None:
    """A speed of one radian: float32 counts every position up to 2**24."""
    x = mx.broadcast_to(mx.array([1.0, 0.0]), (1, 1, 16, 2))
    for offset in (131_064, 1_048_560, 2**20):
        got = np.array(RotaryEmbedding(2, Rope(1e6))(x, offset)[0, 0, :, 0], np.float64)
        np.testing.assert_allclose(got, np.cos(offset + np.arange(16.0)), atol=1e-6)


@pytest.mark.parametrize("table", [wavelengths, rotation_table])
def test_tables_are_built_once_for_each_of_what_they_depend_on(table: Any) -> None:
    """Head size, theta, factor, native length and the ramp's ends: all of them are the key."""
    ropes = [
        Rope(theta, Yarn(factor, native, fast, slow, attention, truncate))
        for theta in (1e6, 5e6)
        for factor in (2.0, 4.0)
        for native in (32768, 262144)
        for fast, slow in ((32.0, 1.0), (16.0, 2.0))
        for attention in (None, 1.5)
        for truncate in (True, False)
    ]
    ropes += [Rope(1e6), Rope(1e7)]
    made = [table(dim, rope) for dim in (64, 128) for rope in ropes]
    again = [table(dim, rope) for dim in (64, 128) for rope in ropes]
    assert all(a is b for a, b in zip(made, again, strict=True))
    assert len({id(t) for t in made}) == len(made)
    if table is rotation_table:
        # the attention factor is in this one, so all of them differ
        assert len({tuple(t.tolist()) for t in made}) == len(made)
