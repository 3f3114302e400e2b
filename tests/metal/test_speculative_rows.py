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


@pytest.mark.parametrize(("kind", "bits"), [("right", 8), ("random", None)])
def test_tails_close_where_they_did(
    kind: str, bits: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packed keys and values are rounded when a tail closes, so it must not close earlier."""
    monkeypatch.setattr(attend, "TAIL", 5)
    network, cache_format = network_of(mx.float32), CacheFormat(bits)
    said: list[int] = []
    tails: list[int] = []
    for drafts in (False, True):
        cache = PromptCache(network, cache_format)
        logits = prefill(network, PROMPT, cache)
        check, reason = way_to_check(network, cache_format)
        assert cache.step is not None and check is not None and not reason and logits is not None
        sampler = Sampler(SAMPLED, 64, PROMPT, 3)
        decoder = Decoder(network, cache, sampler, logits)
        if drafts:
            speculating = Speculating(Told(said, kind, len(PROMPT)), check, Always(many=3))
            given = (network, cache, Sampler(SAMPLED, 64, PROMPT, 3), logits, None, speculating)
            decoder = SpeculativeDecoder(*given, lambda: 99)
        found = [decoder.step() for _ in range(16 if drafts else 20)]
        said = said or found
        assert found == said[: len(found)]
        decoder.settle()
        first = cache.layers[0]
        assert isinstance(first, TailedCache) and first.offset == len(cache.tokens)
        tails.append(first.held)
        if not drafts:
            cache.truncate(len(PROMPT) + 16)
            tails = [first.held]
    assert tails[0] == tails[1]
    assert isinstance(decoder, SpeculativeDecoder)
    turn = decoder.speculating.payoff.turn
    assert turn.accepted == turn.drafted > 5 if kind == "right" else turn.rounds
