"""Drafts checked in fused steps of rows, as on a GPU: the tokens of fused steps of one."""

from __future__ import annotations

import mlx.core as mx
import pytest

from qwen3_mlx.engine.decode import Decoder
from qwen3_mlx.engine.draft import way_to_check
from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.sample import Sampler
from qwen3_mlx.engine.speculative import Speculating, SpeculativeDecoder
from qwen3_mlx.metal import attend
from qwen3_mlx.nn.cache.tailed import TailedCache
from qwen3_mlx.options import CacheFormat, Sampling
from tests.engine.draft_cases import Always, Told
from tests.metal.test_fused_rows import network_of

PROMPT = [1, 2, 3, 4, 5]
SAMPLED = Sampling(0.9, 1.0, 0, 0.0, 0.5, 1.0)


def test_tails_close_where_they_did(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packed keys and values are rounded when a tail closes, so it must not close earlier."""
    monkeypatch.setattr(attend, "TAIL", 5)
    network, cache_format = network_of(mx.float32), CacheFormat(8)

    def started() -> tuple[PromptCache, Sampler, mx.array]:
        cache = PromptCache(network, cache_format)
        logits = prefill(network, PROMPT, cache)
        assert cache.step is not None and logits is not None
        return cache, Sampler(SAMPLED, 64, PROMPT, 3), logits

    cache, sampler, logits = started()
    decoder = Decoder(network, cache, sampler, logits)
    said = [decoder.step() for _ in range(16)]
    guessed = [(token + (place % 5 == 4)) % 64 for place, token in enumerate(said)]
    check, reason = way_to_check(network, cache_format)
    assert check is not None and not reason
    other, sampler, logits = started()
    speculating = Speculating(Told(guessed, "right", len(PROMPT)), check, Always(many=3))
    drafting = SpeculativeDecoder(network, other, sampler, logits, None, speculating, lambda: 99)
    assert [drafting.step() for _ in range(16)] == said
    drafting.settle()
    first, second = cache.layers[0], other.layers[0]
    assert isinstance(first, TailedCache) and isinstance(second, TailedCache)
    assert (first.held, first.recent) == (second.held, second.recent)
    turn = speculating.payoff.turn
    assert 4 < turn.accepted < turn.drafted
