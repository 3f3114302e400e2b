"""A probe leaves no trace in caches with a tail, kernels running."""

from __future__ import annotations

import pytest

from qwen3_mlx.engine import probe, probe_schedule
from qwen3_mlx.metal import attend
from qwen3_mlx.metal.launch import Launch
from qwen3_mlx.options import CacheFormat
from tests import tiny
from tests.probing import NEVER, Run


@pytest.mark.parametrize("cache_format", [CacheFormat(), CacheFormat(8)], ids=str)
def test_tails_are_as_without_a_probe(
    cache_format: CacheFormat, monkeypatch: pytest.MonkeyPatch, launches: list[Launch]
) -> None:
    """Prefill closes a tail, and a packed cache rounds it then: in the branch only."""
    monkeypatch.setattr(attend, "TAIL", 3)
    monkeypatch.setattr(probe_schedule, "MISFITS", 10**9)
    monkeypatch.setattr(probe, "LONGEST", 2)
    network, _ = tiny.network(77, head_dim=32, num_hidden_layers=1)
    plain = Run(network, cache_format, None, max_tokens=13)
    probed = Run(network, cache_format, NEVER, max_tokens=13)
    assert launches and plain.cache.step is not None and not plain.cache.step.fault
    assert plain.cache.layers[0].recent  # type: ignore[attr-defined]  # a tail in use
    assert probed.probing is not None and probed.probing.probes
    assert probed.left() == plain.left()
