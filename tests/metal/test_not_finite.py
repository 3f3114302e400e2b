"""NaN or infinity in, NaN or infinity out, in every kernel and from every input; none hangs."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import pytest

from qwen3_mlx.metal import attend as module
from qwen3_mlx.metal import dispatch, gather_matmul, skinny
from qwen3_mlx.metal.attend import Past, attend
from qwen3_mlx.metal.down import down
from qwen3_mlx.metal.gate_up import gate_up
from qwen3_mlx.metal.matrix import Matrix
from qwen3_mlx.metal.matvec import matvec
from qwen3_mlx.metal.rotation import rotation, rotations
from qwen3_mlx.metal.route import grouped, route
from tests.metal.cases import EPS, gain, packed, random

POISONS = [float("nan"), float("inf"), float("-inf")]
EXPERTS = mx.array([[2, 0], [1, 3]], mx.uint32)
WEIGHTS = mx.full((2, 2), 0.5)

Launch = Callable[[float], mx.array]
"""Makes one launch with the poison somewhere; returns what must not be finite."""


def spoilt(array: mx.array, at: int, poison: float) -> mx.array:
    """`array` with one element replaced."""
    flat = array.flatten()
    flat[at] = poison
    return flat.reshape(array.shape)


def _matvec_x(poison: float) -> mx.array:
    matrix, x = packed((4, 64), mx.float32, 8, 128), random(1, 1, 128)
    return matvec(spoilt(x, 77, poison), [matrix], gain(128, mx.float32), EPS)


def _matvec_norm(poison: float) -> mx.array:
    matrix = packed((8, 64), mx.float32, 8, 128)
    return matvec(random(1, 1, 128), [matrix], spoilt(gain(128, mx.float32), 3, poison), EPS)


def _matvec_residual(poison: float) -> mx.array:
    matrix = packed((0, 0), mx.float32, 8, 128)
    return matvec(random(1, 1, 128), [matrix], residual=spoilt(random(1, 1, 8), 5, poison))[..., 5]


def _gate_up(poison: float) -> mx.array:
    gate, up = (packed((4, 64), mx.float32, 4, 8, 64) for _ in range(2))
    x = spoilt(random(2, 64), 64 + 9, poison)  # the second token's
    h = gate_up(x, gate, up, EXPERTS, WEIGHTS, gain(64, mx.float32), EPS)
    assert mx.isfinite(h[0]).all(), "the first token caught it"
    return h[1]


def _gate_up_weights(poison: float) -> mx.array:
    gate, up = (packed((4, 64), mx.float32, 4, 8, 64) for _ in range(2))
    h = gate_up(random(2, 64), gate, up, EXPERTS, spoilt(WEIGHTS, 3, poison))
    assert mx.isfinite(h[1, 0]).all(), "the other expert caught it"
    return h[1, 1]


def _down(poison: float) -> mx.array:
    matrix = packed((4, 64), mx.float32, 4, 8, 64)
    y = down(spoilt(random(2, 2, 64), 3 * 64 + 1, poison), matrix, EXPERTS, random(2, 8))
    assert mx.isfinite(y[0]).all(), "the first token caught it"
    return y[1]


def _down_residual(poison: float) -> mx.array:
    matrix = packed((8, 32), mx.float32, 4, 8, 64)
    return down(random(2, 2, 64), matrix, EXPERTS, spoilt(random(2, 8), 15, poison))[1, 7]


def _route(poison: float) -> mx.array:
    logits = spoilt(random(2, 40), 7, poison)
    experts, weights = route(logits, 4, True)
    assert len(set(experts[0].tolist())) == 4 and mx.max(experts) < 40, "an expert that isn't"
    if poison == float("-inf"):  # an expert that is never chosen: a number like any other
        assert mx.isfinite(weights).all()
        return mx.array([poison])
    return weights[0]


def _past(**parts: mx.array) -> Past:
    held = {"keys": random(1, 2, 70, 16), "values": random(1, 2, 70, 16)}
    held |= {"tail": random(2, 2, module.TAIL, 16)} | parts
    keys, values = Matrix(held["keys"]), Matrix(held["values"])
    return Past(keys, values, held["tail"], counts=mx.array([65, 5], mx.int32))


def _attended(past: Past, qkv: mx.array | None = None) -> tuple[mx.array, mx.array]:
    """The output by heads ``[4, 16]``, and the tail."""
    norms = (gain(16, mx.float32), gain(16, mx.float32))
    turns = rotation(mx.array([0.5**i for i in range(8)] + [1.0]), past.counts)
    out, tail = attend(
        random(1, 1, 8 * 16) if qkv is None else qkv, (4, 2), norms, EPS, turns, past
    )
    return out.reshape(4, 16), tail


def _attend_query(poison: float) -> mx.array:
    out, _ = _attended(_past(), spoilt(random(1, 1, 8 * 16), 16 + 3, poison))
    assert mx.isfinite(out[0]).all(), "another head caught it"
    return out[1]


def _attend_new_key(poison: float) -> mx.array:
    out, tail = _attended(_past(), spoilt(random(1, 1, 8 * 16), 5 * 16 + 3, poison))
    assert mx.isfinite(out[:2]).all() and not mx.isfinite(tail[0, 1, 5]).all()
    return out[2:]


def _attend_old_key(poison: float) -> mx.array:
    keys = random(1, 2, 70, 16)
    keys[0, 1, 64, 3] = poison
    out = _attended(_past(keys=keys))[0][2:]
    # a score of minus infinity is a weight of zero, and allowed: of ±inf one sign gives that
    return out if poison != poison else mx.where(mx.isfinite(out).all(-1), poison, out[:, 0])


def _attend_old_value(poison: float) -> mx.array:
    values = random(1, 2, 70, 16)
    values[0, 0, 40, 3] = poison
    return _attended(_past(values=values))[0][:2, 3]


def _attend_packed(poison: float) -> mx.array:
    """A scale that is not finite, of a value's row."""
    rows = random(1, 2, 70, 32)
    words, scales, biases = mx.quantize(rows, 32, 8)
    counts = mx.array([65, 5], mx.int32)
    keys, values = (Matrix(words, s, biases, 8, 32) for s in (scales, spoilt(scales, 40, poison)))
    past = Past(keys, values, random(2, 2, module.TAIL, 32), counts)
    turns, ones = rotation(mx.array([0.5**i for i in range(16)] + [1.0]), counts), mx.ones((32,))
    out, _ = attend(random(1, 1, 8 * 32), (4, 2), (ones, ones), EPS, turns, past)
    assert mx.isfinite(out.reshape(4, 32)[2:]).all(), "another head caught it"
    return out.reshape(4, 32)[:2]


def _attend_tail(poison: float) -> mx.array:
    tail = random(2, 2, module.TAIL, 16)
    tail[1, 1, 4, 9] = poison
    return _attended(_past(tail=tail))[0][2:, 9]


def _gather_matmul(poison: float) -> mx.array:
    matrices = tuple(packed((4, 64), mx.float16, 3, 128, 128) for _ in range(3))
    plan = gather_matmul.plan(mx.zeros((9, 1), mx.uint32), 3)
    x = spoilt(random(9, 128, dtype=mx.float16), 4 * 128 + 77, poison)
    h = gather_matmul.gate_up(x, *matrices[:2], mx.ones((9, 1)), plan)
    out = gather_matmul.down(h, matrices[2], plan)[:, 0]
    assert mx.isfinite(out[:4]).all() and mx.isfinite(out[5:]).all(), "another token caught it"
    return out[4]


def _attend_rows(poison: float) -> mx.array:
    """A value of the second sequence's past; the first sequence knows nothing of it."""
    one, values = _past(), random(1, 2, 70, 16)
    values[0, 0, 40, 3] = poison
    keys, tails = [one.keys] * 2, mx.stack([one.tail] * 2)
    counts, rows = mx.array([[65, 5]] * 2, mx.int32), mx.array([[0, 0], [1, 0]], mx.int32)
    pasts = module.Pasts(keys, [one.values, Matrix(values)], tails, counts, rows)
    turns, _ = rotations(mx.array([0.5**i for i in range(8)] + [1.0]), counts, rows)
    norms = (gain(16, mx.float32), gain(16, mx.float32))
    out, _ = attend(random(2, 1, 8 * 16), (4, 2), norms, EPS, turns, pasts)
    assert mx.isfinite(out[0]).all(), "the other sequence caught it"
    return out[1].reshape(4, 16)[:2, 3]


def _skinny(poison: float) -> mx.array:
    x = spoilt(random(3, 1, 128, dtype=mx.bfloat16), 128 + 77, poison)
    matrices = [packed((4, 64), mx.bfloat16, 8, 128)]
    y = skinny.matvec(x, matrices, gain(128, mx.bfloat16), EPS)
    assert mx.isfinite(y[0]).all() and mx.isfinite(y[2]).all(), "another row caught it"
    return y[1]


def _skinny_down(poison: float) -> mx.array:
    """A hidden layer of one row's expert; a row that has not chosen that expert is well."""
    h = spoilt(random(2, 1, 128, dtype=mx.bfloat16), 128 + 5, poison)
    groups = grouped(mx.eye(2)[:, None], 1, True)
    y = skinny.down(h, packed((4, 64), mx.bfloat16, 2, 8, 128), groups)
    assert mx.isfinite(y[0]).all(), "the other row caught it"
    return y[1]


CASES: dict[str, Launch] = {
    "attend_rows": _attend_rows,
    "skinny": _skinny,
    "skinny_down": _skinny_down,
    "matvec_x": _matvec_x,
    "matvec_norm": _matvec_norm,
    "matvec_residual": _matvec_residual,
    "gate_up": _gate_up,
    "gate_up_weights": _gate_up_weights,
    "down": _down,
    "down_residual": _down_residual,
    "route": _route,
    "attend_query": _attend_query,
    "attend_new_key": _attend_new_key,
    "attend_old_key": _attend_old_key,
    "attend_old_value": _attend_old_value,
    "attend_tail": _attend_tail,
    "attend_packed": _attend_packed,
    "gather_matmul": _gather_matmul,
}


def test_every_kernel_is_here() -> None:
    assert all(any(case.startswith(name) for case in CASES) for name in dispatch.KERNELS)


@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("case", CASES)
def test_what_is_not_finite_stays_so(case: str, poison: float) -> None:
    assert not mx.isfinite(CASES[case](poison)).any()


def test_a_split_past(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the parts are merged by a second launch."""
    monkeypatch.setattr(module, "_SPLIT_FROM", 16)
    monkeypatch.setattr(module, "_PART", 20)
    for poison in POISONS:
        assert not mx.isfinite(_attend_old_value(poison)).any()
        assert not mx.isfinite(_attend_new_key(poison)).any()
