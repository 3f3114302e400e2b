"""A step in parts: what it computes, and that the device has a part before the next is built."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest

from qwen3_mlx.nn.step_parts import PART, StepParts, spans


@pytest.mark.parametrize("layers", [1, 2, PART - 1, PART, PART + 1, 28, 36, 48, 64, 94])
def test_parts_are_alike_and_hold_each_layer_once(layers: int) -> None:
    parts = spans(layers)
    assert [layer for part in parts for layer in range(layers)[part]] == list(range(layers))
    sizes = [part.stop - part.start for part in parts]
    assert max(sizes) <= PART and max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("eager", [True, False])
def test_each_part_is_started_before_the_next_is_built(
    eager: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    started = mx.async_eval
    monkeypatch.setattr(mx, "async_eval", lambda *a: (told.append("started"), started(*a)))

    def begin(tokens: mx.array, scale: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        return tokens * scale, scale, scale + 1

    def through(
        span: slice, x: mx.array, turns: mx.array, pasts: list[mx.array], scale: mx.array
    ) -> tuple[mx.array, list[mx.array]]:
        told.append(span)
        tails = []
        for past in pasts:
            x = x * turns + past
            tails.append(x - scale)
        return x, tails

    layers = 2 * PART + 1
    step = StepParts(begin, through, layers, eager)
    pasts = [mx.array([float(index)]) for index in range(layers)]
    tokens, scale = mx.array([2.0]), mx.array([1.5])
    x, tails, rest = step(tokens, pasts, scale)
    first, second, third = spans(layers)
    begun = ["started"] * eager
    assert told == [first, *begun, second, *begun, third]
    whole, all_tails = through(slice(0, layers), tokens * scale, scale, pasts, scale)
    assert mx.allclose(x, whole).item() and len(tails) == layers
    assert all(mx.allclose(a, b).item() for a, b in zip(tails, all_tails, strict=True))
    assert [one.item() for one in rest] == [2.5]
