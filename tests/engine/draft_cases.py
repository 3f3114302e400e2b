"""Random turns with drafts, held to the same turns without, token by token.

python -m tests.engine.draft_cases [COUNT [FIRST]] [grammar]
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import qwen3_mlx.device.backend  # noqa: F401  (before mlx)

import mlx.core as mx

from qwen3_mlx.engine.control import Control
from qwen3_mlx.engine.decode import Decoder, run
from qwen3_mlx.engine.draft import Drafter, way_to_check
from qwen3_mlx.engine.draft_model import DraftModel
from qwen3_mlx.engine.guide import Guide
from qwen3_mlx.engine.guided_drafts import decoder_of
from qwen3_mlx.engine.lookup import Lookup
from qwen3_mlx.engine.payoff import Payoff
from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.sample import Sampler
from qwen3_mlx.engine.sequence import Markers, TurnSequence
from qwen3_mlx.engine.speculative import Speculating, SpeculativeDecoder
from qwen3_mlx.nn.transformer import Qwen3Network
from qwen3_mlx.options import CacheFormat, Sampling
from qwen3_mlx.options.thinking_budget import ThinkingBudget
from tests import tiny

VOCABULARY = 24
OPEN, CLOSE, EOS = 20, 5, 7
STOP_IDS, CLOSE_IDS = (3, 9, CLOSE, 2), (8, CLOSE, 8)
MARKERS = Markers(OPEN, CLOSE, None, frozenset({EOS}))
FORMATS = (CacheFormat(), CacheFormat(8), CacheFormat(4), CacheFormat(window=64))
DRAFTERS = ("lookup", "model", "right", "wrong", "random", "ends")


@dataclass(slots=True)
class Told:
    """A drafter that is told what to propose, from what will be said without drafts."""

    future: Sequence[int]
    kind: str
    begun: int
    draw: random.Random = field(default_factory=lambda: random.Random(0))

    def begin(self) -> None:
        """Nothing is remembered."""

    def follow(self, tokens: Sequence[int], most: int | None = None) -> bool:
        """Nothing is remembered."""
        return True

    def settle(self) -> None:
        """Nothing is under way."""

    def propose(
        self, tokens: Sequence[int], drawn: mx.array, most: int, sampler: Sampler
    ) -> mx.array | None:
        at = len(tokens) - self.begun + 1
        right = [*self.future[at : at + most], *[EOS] * most][:most]
        drafts = {
            "right": right,
            "wrong": [(token + 1) % VOCABULARY for token in right],
            "random": [self.draw.randrange(VOCABULARY) for _ in right],
            "ends": [EOS] * most,
        }[self.kind]
        return mx.array(drafts, mx.uint32)


@dataclass(slots=True)
class Always(Payoff):
    """Asks for so many drafts in every step."""

    many: int = 3

    @property
    def drafts(self) -> int:
        """As `Payoff.drafts`."""
        return self.many

    @property
    def wanted(self) -> int:
        """As `Payoff.wanted`."""
        return self.many


@dataclass(frozen=True, slots=True)
class Case:
    """One turn, and the drafts that it gets."""

    network: Qwen3Network
    helper: Qwen3Network
    cache_format: CacheFormat
    prompt: list[int]
    sampling: Sampling
    seed: int
    budget: int | None
    max_tokens: int
    drafter: str
    most: int
    chunk: int
    logprobs: int | None
    bias: dict[int, float] | None
    min_tokens: int
    cut_at: int | None
    """Tokens after which the user asks for the answer."""
    guide: Callable[[], Guide | None] = lambda: None


@dataclass(slots=True)
class Places:
    """A matcher of one answer: at each place one of some tokens, at times a single one."""

    places: Sequence[Sequence[int]]
    at: int = 0

    def mask(self) -> bytes:
        here = [EOS] if self.ended else self.places[self.at]
        return sum(1 << token for token in here).to_bytes(4, "little")

    def take(self, token: int) -> bool:
        fits = not self.ended and token in self.places[self.at]
        self.at += fits
        return fits

    def forced(self) -> list[int]:
        left = self.places[self.at : -1]
        several = next((n for n, place in enumerate(left) if len(place) > 1), len(left))
        return [place[0] for place in left[:several]]

    def copy(self) -> Places:
        return Places(self.places, self.at)

    @property
    def ended(self) -> bool:
        return self.at == len(self.places)


def guided(number: int) -> Case:
    """As `case`, with an answer that follows a random grammar, perhaps behind a thought."""
    draw, one = random.Random(~number), case(number)
    free = [token for token in range(VOCABULARY) if token not in (OPEN, CLOSE, EOS)]
    sizes = draw.choice([(1, 1, 1, 2), (1, 2, 6), (3, 8), (12, 18)])
    places = [draw.sample(free, draw.choice(sizes)) for _ in range(draw.choice([3, 12, 40]))]
    thinks, least = draw.random() < 0.5, draw.choice([2, 3, None])
    more: dict[str, Any] = {"opener": OPEN, "lead": (8,)} if thinks else {}

    def guide() -> Guide:
        never = frozenset({EOS})
        return Guide(Places(places), VOCABULARY, never=never, least_forced=least, **more)

    bias = {OPEN: 6.0, CLOSE: draw.choice([0.0, 2.0])} if thinks else None
    return replace(one, guide=guide, min_tokens=0, bias=bias)


@cache
def networks(kind: int, window: bool) -> tuple[Qwen3Network, Qwen3Network]:
    """A target, dense or with experts, and a helper that is often right."""
    experts = {"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2}
    changes: dict[str, Any] = experts | {"moe_intermediate_size": 32} if kind else {}
    target, _ = tiny.network(5 + kind, head_dim=32, **changes)
    helper, _ = tiny.network(5 + kind, head_dim=32, **changes)
    noise = 0.05 * mx.random.normal(helper.lm_head.weight.shape)
    helper.lm_head.weight = helper.lm_head.weight + noise
    return target, helper


def case(number: int) -> Case:
    """Random, the same for the same number."""
    draw = random.Random(number)
    cache_format = FORMATS[number % len(FORMATS)]
    target, helper = networks(draw.randrange(2), cache_format.window is not None)
    some = draw.choices(range(VOCABULARY), k=draw.choice([2, 5, 9]))
    prompt = (some * 40)[: draw.choice([3, 20, 90])]
    sampling = Sampling(
        temperature=draw.choice([0.0, 0.7, 1.3]),
        top_p=draw.choice([1.0, 0.9]),
        top_k=draw.choice([0, 5]),
        min_p=draw.choice([0.0, 0.05]),
        presence_penalty=draw.choice([0.0, 0.0, 1.5]),
        repetition_penalty=draw.choice([1.0, 1.0, 1.3]),
        frequency_penalty=draw.choice([0.0, 0.0, 0.7]),
    )
    return Case(
        *(target, helper, cache_format, prompt, sampling),
        seed=number,
        budget=draw.choice([None, None, 0, 1, 3, 4, 9]),
        max_tokens=draw.choice([1, 2, 12, 60]),
        drafter=draw.choice(DRAFTERS),
        most=draw.choice([1, 3, 7]),
        chunk=draw.choice([1, 7, 512]),
        logprobs=draw.choice([None, None, 0, 2]),
        bias=draw.choice([None, {4: 2.0}, {EOS: -8.0}]),
        min_tokens=draw.choice([0, 0, 10]),
        cut_at=draw.choice([None, None, 0, 5]),
    )


def said(one: Case, drafter: Drafter | None) -> tuple[list[Any], PromptCache, int]:
    """All that the turn says, its cache behind it, and the drafts that were right."""
    prompt_cache = PromptCache(one.network, one.cache_format)
    control = Control()
    budget = ThinkingBudget(one.budget, STOP_IDS, CLOSE_IDS)
    sequence = TurnSequence(MARKERS, budget, one.max_tokens, control, guide=one.guide())
    sampler = Sampler(
        *(one.sampling, VOCABULARY, one.prompt, one.seed),
        bias=one.bias,
        min_tokens=one.min_tokens,
        eos=MARKERS.eos,
    )
    heard: list[Any] = []
    with prompt_cache.filling():
        logits = prefill(one.network, one.prompt, prompt_cache, one.chunk)
        assert logits is not None
        prompt_cache.mark()
        decoder = _decoder(one, prompt_cache, sampler, logits, drafter, sequence)
        for ids, generated in run(decoder, sequence):
            known = decoder.logprobs
            heard.append((ids, generated, None if known is None else _numbers(known)))
            if sum(len(ids) for ids, *_ in heard) == one.cut_at:
                control.interrupt("answer")
    counts = (sequence.thinking_tokens, sequence.answer_tokens, sequence.used, sequence.cut)
    heard.append((*counts, sequence.finish_reason, list(prompt_cache.tokens)))
    own = decoder.speculating if isinstance(decoder, SpeculativeDecoder) else None
    return heard, prompt_cache, own.payoff.turn.accepted if own else 0


def _decoder(
    one: Case,
    prompt_cache: PromptCache,
    sampler: Sampler,
    logits: mx.array,
    drafter: Drafter | None,
    sequence: TurnSequence,
) -> Decoder:
    check, _ = way_to_check(one.network, one.cache_format)
    assert check is not None
    speculating = drafter and Speculating(drafter, check, Always(many=one.most))
    return decoder_of(sequence, prompt_cache, sampler, logits, one.logprobs, speculating)


def _numbers(known: Any) -> list[Any]:
    return [part.tolist() for part in known]


def run_case(number: int, made: Callable[[int], Case] = case) -> tuple[int, int]:
    """Returns the tokens said, and drafts that were right. Raises `AssertionError`."""
    one = made(number)
    plain, plain_cache, _ = said(one, None)
    future = [token for ids, *_ in plain[:-1] for token in ids]
    drafters: dict[str, Callable[[], Drafter]] = {
        "lookup": Lookup,
        "model": lambda: DraftModel(PromptCache(one.helper)),
    }
    told = Told(future, one.drafter, len(one.prompt), random.Random(number))
    drafter = drafters.get(one.drafter, lambda: told)()
    drafted, cache, accepted = said(one, drafter)
    assert drafted == plain, (number, one.drafter, drafted, plain)
    assert [layer.offset for layer in cache.layers] == [len(cache.tokens)] * len(cache.layers)
    for mine, other in zip(cache.layers, plain_cache.layers, strict=True):
        held = (part[..., : mine.offset, :] for part in mine.state)
        others = (part[..., : mine.offset, :] for part in other.state)
        if one.cache_format.window is None:
            assert all(mx.array_equal(a, b) for a, b in zip(held, others, strict=True)), number
    return len(future), accepted


def main() -> None:
    """Run so many cases, and say what came of them."""
    given = [int(argument) for argument in sys.argv[1:] if argument != "grammar"]
    made = guided if "grammar" in sys.argv else case
    count, first = (given + [500, 0][len(given) :])[:2]
    began, tokens, right = time.monotonic(), 0, 0
    for number in range(first, first + count):
        new, accepted = run_case(number, made)
        tokens, right = tokens + new, right + accepted
    seconds = time.monotonic() - began
    print(
        f"{count} turns, {tokens} tokens with drafts as without, {right} of them from drafts;"
        f" {seconds:.0f} s"
    )


if __name__ == "__main__":
    main()
