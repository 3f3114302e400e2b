"""A turn with probes and the same turn without, on a tiny random network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlx.core as mx

from qwen3_mlx.engine import decode
from qwen3_mlx.engine.draft import Drafter, way_to_check
from qwen3_mlx.engine.markers import Markers
from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.engine.probe_schedule import ProbeRule, ProbeSchedule
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.sample import Sampler
from qwen3_mlx.engine.sequence import TurnSequence
from qwen3_mlx.engine.speculative import Speculating, SpeculativeDecoder
from qwen3_mlx.nn.transformer import Qwen3Network
from qwen3_mlx.options import CacheFormat, Sampling
from qwen3_mlx.options.thinking_budget import ThinkingBudget
from tests.engine.draft_cases import Always

OPEN, CLOSE, EOS = 24, 25, 26  # beyond the network's vocabulary: nothing ends the turn early
STOP, SLOT = (3, 9, 5, 2), (22, 1)
PROMPT = [(i * 7 + i // 5) % 20 + 1 for i in range(60)]
DRAWN = Sampling(temperature=1.0, top_p=0.95, top_k=20, presence_penalty=0.5)
NEVER, ALWAYS = 2.0, 0.0


def bytes_of(token: int) -> bytes:
    """Every third token ends a sentence, every fourth a line."""
    return b"\n" if token % 4 == 0 else b"." if token % 3 == 0 else f" {token}".encode()


MARKERS = Markers(OPEN, CLOSE, None, frozenset({EOS}), None, bytes_of)


class Run:
    """A turn of `max_tokens`, and all that it leaves behind."""

    def __init__(
        self,
        network: Qwen3Network,
        cache_format: CacheFormat,
        certainty: float | None,
        *,
        limit: int | None = None,
        max_tokens: int = 40,
        drafter: Drafter | None = None,
    ) -> None:
        self.cache = PromptCache(network, cache_format)
        logits = prefill(network, PROMPT, self.cache)
        assert logits is not None
        self.cache.mark()
        self.sampler = Sampler(DRAWN, 24, PROMPT, seed=5)
        self.probing = None
        if certainty is not None:
            self.probing = ProbeSchedule(ProbeRule(4, 1, certainty, SLOT, agreeing=1))
        self.turn = TurnSequence(
            MARKERS, ThinkingBudget(limit, STOP), max_tokens, inside=True, probing=self.probing
        )
        decoder: decode.Decoder
        parts = (network, self.cache, self.sampler, logits, 2)
        if drafter is None:
            decoder = decode.Decoder(*parts)
        else:
            check, _ = way_to_check(network, cache_format)
            assert check is not None
            speculating = Speculating(drafter, check, Always())
            room = lambda: max_tokens - self.turn.used  # noqa: E731
            decoder = SpeculativeDecoder(*parts, speculating, room)
        self.tokens = [token for ids, _ in decode.run(decoder, self.turn) for token in ids]
        self.next = decoder.drawn.tolist()

    def left(self) -> list[Any]:
        """Tokens, look-ahead, random keys and every array of the cache, as plain values."""
        state = [a.tolist() if isinstance(a, mx.array) else a for a in self.sampler.state()]
        layers = [list(_values(layer)) for layer in self.cache.layers]
        return [self.tokens, self.next, self.cache.tokens, state, layers]


def _values(layer: Any) -> Iterator[Any]:
    """What a cache holds; of buffers their size, and the rows that are in use."""
    rows = getattr(layer, "held", layer.offset) - (getattr(layer, "start", 0) or 0)
    rows += layer.window.sinks if hasattr(layer, "window") else 0
    yield [layer.offset, getattr(layer, "recent", 0), getattr(layer, "start", 0), layer.limit]
    buffers = [b for pair in layer.packed for b in pair] if hasattr(layer, "packed") else None
    for buffer in buffers or (layer.keys, layer.values):
        yield buffer.shape
        yield mx.view(buffer[..., :rows, :], mx.uint32).tolist()
    if getattr(layer, "recent", 0):
        yield mx.view(layer.tail[..., : layer.recent, :], mx.uint32).tolist()
