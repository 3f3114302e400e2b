"""Networks on the processor's shim whose kernels run by verdict alone, as on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qwen3_mlx.engine.decode import Decoder
from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.sample import Sampler
from qwen3_mlx.metal import verdict
from qwen3_mlx.metal.verdict import Reading, Verdict
from qwen3_mlx.nn.signature import verdict_file
from qwen3_mlx.nn.transformer import Qwen3Network
from qwen3_mlx.options import Sampling
from tests import tiny

MOE = {
    "model_type": "qwen3_moe",
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 32,
    "norm_topk_prob": True,
}
SAMPLED = Sampling(0.8, 0.95, 10, 0.0, 0.0, 1.0)


def net(**changes: Any) -> Qwen3Network:
    network = tiny.network(4, **changes)[0]
    network.eval()
    return network


def said(network: Qwen3Network, tokens: int = 6) -> list[int]:
    """What the engine draws, seeded."""
    cache = PromptCache(network)
    logits = prefill(network, [1, 2, 3], cache)
    assert logits is not None
    decoder = Decoder(network, cache, Sampler(SAMPLED, 24, seed=7), logits)
    return [decoder.step() for _ in range(tokens)]


def plain(network: Qwen3Network, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    with monkeypatch.context() as patch:
        patch.setenv("QWEN3_MLX_KERNELS", "off")
        return said(network)


def clock_of(seconds: Callable[[int], float]) -> Callable[[], float]:
    """A clock by which the n-th block takes ``seconds(n)``."""
    calls = iter(range(10**6))
    now = [0.0]

    def tick() -> float:
        call = next(calls)
        if call % 2:
            now[0] += seconds(call // 2)
        return now[0]

    return tick


def proven(*arms: Any) -> Verdict:
    right = ["matvec", "attend", "gate_up", "down", "route", "attend_rows", "step"]
    readings = {
        past: Reading({"stock": 1.0, arm: 2.0}, {arm: 2.0}, arm)
        for past, arm in zip(("5", "9"), arms, strict=True)
    }
    return Verdict(right=right, readings=readings, machine=verdict.machine())


def keep(network: Qwen3Network, held: Verdict) -> Path:
    file = verdict_file(network)
    assert file is not None and verdict.write(file, held) is None
    return file
