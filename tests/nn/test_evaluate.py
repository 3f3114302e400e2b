"""Work is begun and waited for layer by layer where it would pile up, and left alone elsewhere."""

from __future__ import annotations

import io
from dataclasses import replace

import qwen3_mlx.device.backend as backend

import mlx.core as mx
import pytest

from qwen3_mlx.metal import dispatch
from qwen3_mlx.nn import evaluate
from qwen3_mlx.nn.backend import PLAIN
from qwen3_mlx.nn.cache.full import KVCache
from qwen3_mlx.nn.choose_backend import choose_backend
from tests import tiny
from tests.oracle import assert_close
from tests.threads import at_once


def left(out: mx.array) -> int:
    """Operations that are still to be computed for `out`."""
    text = io.StringIO()
    mx.export_to_dot(text, out)
    return text.getvalue().count("rectangle")


def test_a_gpu_is_given_a_layer_at_a_time() -> None:
    network, _ = tiny.network(6)
    many, few = (mx.array([[(5 * i + 3) % 24 for i in range(n)]]) for n in (64, 63))
    want, whole = network(many), left(network(many))
    assert left(network(few)) == whole > 60
    network.model.backend = replace(PLAIN, paced=True)
    assert left(network(few)) == whole
    got = network(many)
    assert left(got) < whole / 6  # the head and the last norm
    assert_close(got, want)
    # in a trace nothing can be begun; fused elementwise code rounds otherwise
    assert_close(mx.compile(lambda tokens: network(tokens))(many), want, bound=1e-10)


def test_only_gpus_are_paced(monkeypatch: pytest.MonkeyPatch) -> None:
    network, _ = tiny.network(6)
    for device in ("cpu", "cuda", "metal"):
        monkeypatch.setattr(backend, "device", lambda device=device: device)
        monkeypatch.setattr(dispatch, "unavailable_reason", lambda *_, **_given: "not asked here")
        assert choose_backend(network).paced == network.model.backend.paced == (device != "cpu")


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many arrays each wait was for."""
    found: list[int] = []
    real = evaluate.evaluate_now
    monkeypatch.setattr(
        evaluate, "evaluate_now", lambda *arrays: (found.append(len(arrays)), real(*arrays))[1]
    )
    return found


def grown(count: int) -> list[KVCache]:
    """Caches that outgrow their buffers of 256 tokens at the 257th."""
    caches = [KVCache() for _ in range(count)]
    for index, cache in enumerate(caches):
        row = mx.full((1, 1, 256, 8), float(index + 1))
        cache.append(row, row + 0.5)
        mx.eval(cache.state)
    return caches


def append_one(caches: list[KVCache]) -> None:
    for cache in caches:
        cache.append(mx.zeros((1, 1, 1, 8)), mx.ones((1, 1, 1, 8)))


def test_a_grown_buffer_is_evaluated_at_once(evaluated: list[int]) -> None:
    """So that the smaller one is freed before anything else is allocated."""
    append_one(grown(2))
    assert evaluated == [1] * 4


def test_a_fused_step_waits_for_many_grown_buffers_at_a_time(
    evaluated: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    caches = grown(5)
    each = 512 * 8 * 4  # bytes of a grown buffer in float32
    monkeypatch.setattr(evaluate, "GROWN_BYTES", 3 * each)
    with evaluate.growing_together():
        append_one(caches)
    assert evaluated == [3, 3, 3], "and the tenth with the step"
    for index, cache in enumerate(caches):
        assert cache.keys is not None and cache.values is not None
        assert cache.keys.shape[2] == 512 and cache.offset == 257
        assert cache.keys[0, 0, 255:257, 0].tolist() == [index + 1, 0]
        assert cache.values[0, 0, 255:257, 0].tolist() == [index + 1.5, 1]
    evaluated.clear()
    append_one(grown(1))
    assert evaluated == [1, 1], "after the step each is evaluated at once again"


def test_waiting_together_ends_with_an_error(evaluated: list[int]) -> None:
    with pytest.raises(ZeroDivisionError), evaluate.growing_together():
        1 / 0  # noqa: B018
    append_one(grown(1))
    assert evaluated == [1, 1]


def test_other_threads_wait_for_each(evaluated: list[int]) -> None:
    with evaluate.growing_together():
        at_once(lambda: append_one(grown(1)))
    assert evaluated == [1, 1]
