"""The list of a network's kernels: it holds what a step launches, and its texts are short."""

from __future__ import annotations

from typing import Any

import qwen3_mlx.device.backend as backend

import mlx.core as mx
import pytest

from qwen3_mlx.bench.random_network import SHAPES
from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.metal import attend
from qwen3_mlx.metal import launch as build
from qwen3_mlx.metal.launch import Launch
from qwen3_mlx.metal.variants import PLAIN, Signature, text_key, variants
from qwen3_mlx.metal.variants_rows import launches_of, variants_of_rows
from qwen3_mlx.nn.fused_step import FusedStep
from tests import tiny

MOE = {
    "model_type": "qwen3_moe",
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 32,
    "norm_topk_prob": True,
}


def key(launch: Launch) -> tuple[object, ...]:
    return (launch.kernel, launch.staged, tuple(launch.outputs), tuple(launch.constants.items()))


@pytest.mark.parametrize("changes", [{}, MOE])
def test_what_a_step_launches_is_listed(changes: dict[str, Any], launches: list[Launch]) -> None:
    network, config = tiny.network(1, **changes)
    step = FusedStep.if_available(network)
    assert step is not None
    cache = step.make_cache()
    network(mx.array([[1, 2, 3]]), cache)
    launches.clear()
    step(mx.array([[4]]), cache)
    listed = {key(one) for one in variants(Signature.of(config, mx.float32, PLAIN))}
    assert {key(launch) for launch in launches} <= listed
    assert {"attend", "rotation", "matvec"} <= {launch.kernel for launch in launches}


def test_few_texts_a_network() -> None:
    """Blank arrays, never computed: the largest network's list costs nothing."""
    config = Qwen3Config.from_dict(SHAPES["480b-a35b"].config())
    found = variants(Signature.of(config, mx.bfloat16, (4, 64), (8, 64)))
    assert len({key(launch) for launch in found}) == len(found) <= 16
    assert {"attend", "combine", "route", "gate_up", "down"} <= {one.kernel for one in found}


@pytest.mark.parametrize("shape", ["8b", "30b-a3b"])
def test_texts_are_short(shape: str) -> None:
    """MLX hashes them at every launch: what it is given, on average of a step's kernels.

    The longest is `attend`'s, which picks the sequence of its row.
    """
    config = Qwen3Config.from_dict(SHAPES[shape].config())
    sizes = {
        launch.kernel: sum(
            len(build.squeezed(build.text(file))) for file in build.texts(launch, "metal")
        )
        for launch in variants(Signature.of(config, mx.bfloat16, (4, 64), (8, 64)))
        if launch.kernel != "gather_matmul"
    }
    assert max(sizes.values()) < 8000
    assert sum(sizes.values()) / len(sizes) <= 5000


@pytest.mark.parametrize("kept", [PLAIN, (8, 64)])
@pytest.mark.parametrize("device", ["metal", "cuda"])
def test_whatever_rows_a_step_has_its_texts_are_listed(
    device: str, kept: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that are proven and compiled ahead: of any number of sequences, each with any rows."""
    monkeypatch.setattr(backend, "device", lambda: device)
    config = Qwen3Config.from_dict(SHAPES["30b-a3b"].config())
    own = Signature.of(config, mx.bfloat16, (4, 64), (8, 64), kept)
    listed = {text_key(one) for one in variants_of_rows(own)}
    for count in range(1, attend.most_sequences(kept != PLAIN) + 1):
        for more in {0, 1, 2, 3, 8 - count, 9 - count, 16 - count}:
            new = (1 + more, *(1,) * (count - 1))
            if more < 0 or new == (1,):
                continue
            for split in (False, True):
                made = {text_key(one) for one in launches_of(own, new, split)}
                assert made <= listed, (new, split)
