"""Work is begun and waited for layer by layer where it would pile up, and left alone elsewhere."""

from __future__ import annotations

import io
from dataclasses import replace

import qwen3_mlx.device.backend as backend

import mlx.core as mx
import pytest

from qwen3_mlx.metal import dispatch
from qwen3_mlx.nn.backend import PLAIN
from qwen3_mlx.nn.choose_backend import choose_backend
from tests import tiny
from tests.oracle import assert_close


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
