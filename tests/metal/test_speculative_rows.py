"""Drafts checked in fused steps of rows, as on a GPU: the tokens of fused steps of one."""

from __future__ import annotations

import mlx.core as mx
import pytest

from qwen3_mlx.engine.decode import Decoder
from qwen3_mlx.engine.draft import way_to_check
from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.sample import Sampler
from qwen3_mlx.engine.side_by_side import SideBySide
from qwen3_mlx.engine.speculative import Speculating, SpeculativeDecoder
from qwen3_mlx.metal import attend
from qwen3_mlx.nn.cache.tailed import TailedCache
from qwen3_mlx.options import CacheFormat, Sampling
from tests.chat.any_drafts import eager
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


def test_beside_others_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that drafts and one that doesn't say what they say in fused steps of their own."""
    monkeypatch.setattr(attend, "TAIL", 5)
    network, cache_format = network_of(mx.float32), CacheFormat(8)
    prompts = ([1, 2, 3, 4, 5], [7, 8])

    def alone(prompt: list[int]) -> Decoder:
        cache = PromptCache(network, cache_format)
        logits = prefill(network, prompt, cache)
        assert cache.step is not None and logits is not None
        return Decoder(network, cache, Sampler(SAMPLED, 64, prompt, 3), logits)

    plain = [alone(prompt) for prompt in prompts]
    said = [[decoder.step() for _ in range(9)] for decoder in plain]
    check, _ = way_to_check(network, cache_format)
    assert check is not None
    guessed = [(token + (place % 5 == 4)) % 64 for place, token in enumerate(said[0])]
    speculating = Speculating(Told(guessed, "right", len(PROMPT)), check, Always(many=3))
    one, other = (alone(prompt) for prompt in prompts)
    one.sampler.restore(one.sampler.state()._replace(draws=0))
    given = (network, one.cache, one.sampler, one._logits, None, speculating, lambda: 99)
    drafting = SpeculativeDecoder(*given)
    side, heard = SideBySide(network, cache_format), [list[int](), list[int]()]
    with eager():
        while len(heard[0]) < 9:
            first, second = side.step([drafting, other])
            heard[0].append(first)
            heard[1].append(second)
            while drafting.ready:
                heard[0].append(drafting.step())
    assert heard[0][:9] == said[0] and heard[1] == said[1][: len(heard[1])]
    assert len(heard[1]) < 9 and speculating.payoff.turn.accepted > 2
    for layer in drafting.cache.layers:
        assert isinstance(layer, TailedCache)
        assert layer.held + layer.recent == len(drafting.cache.tokens)
