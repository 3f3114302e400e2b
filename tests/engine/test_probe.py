"""A probe leaves no trace, and a cut that it leads to is the budget's own."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest

from qwen3_mlx.engine import decode, probe, probe_schedule, prompt_cache
from qwen3_mlx.engine.probe_schedule import ProbeRule, ProbeSchedule
from qwen3_mlx.engine.sample import Sampler
from qwen3_mlx.engine.sequence import TurnSequence
from qwen3_mlx.errors import OutOfMemoryError
from qwen3_mlx.nn.cache import windowed
from qwen3_mlx.nn.cache.full import KVCache
from qwen3_mlx.options import CacheFormat
from qwen3_mlx.options.thinking_budget import ThinkingBudget
from tests import tiny
from tests.engine.draft_cases import Told
from tests.probing import ALWAYS, DRAWN, MARKERS, NEVER, PROMPT, SLOT, STOP, Run

FORMATS = [CacheFormat(), CacheFormat(8), CacheFormat(4), CacheFormat(window=64)]
SIZES: dict[str, Any] = {"head_dim": 32}


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probe at every chance; small blocks, so that buffers grow and windows move within probes."""
    monkeypatch.setattr(probe_schedule, "MISFITS", 10**9)
    monkeypatch.setattr(probe_schedule, "BACK_OFF", 1)
    monkeypatch.setattr(KVCache, "step", 8)
    monkeypatch.setattr(windowed, "MARGIN", 4)


@pytest.mark.parametrize("cache_format", FORMATS, ids=str)
def test_a_probe_leaves_no_trace(cache_format: CacheFormat) -> None:
    network, _ = tiny.network(77, **SIZES)
    plain, probed = Run(network, cache_format, None), Run(network, cache_format, NEVER)
    assert probed.probing is not None and probed.probing.probes > 5
    assert probed.left() == plain.left()


@pytest.mark.parametrize("cache_format", FORMATS, ids=str)
def test_a_sure_cut_is_the_cut_of_a_budget(cache_format: CacheFormat) -> None:
    network, _ = tiny.network(77, **SIZES)
    sure = Run(network, cache_format, ALWAYS)
    assert sure.turn.cut == "sure"
    fixed = Run(network, cache_format, None, limit=sure.turn.thinking_tokens)
    assert fixed.turn.cut == "budget"
    assert sure.left() == fixed.left()


@pytest.mark.parametrize(
    ("cache_format", "kind"),
    [(FORMATS[1], "right"), (FORMATS[3], "right"), (FORMATS[0], "random")],
    ids=str,
)
def test_drafts_and_probes_leave_each_other_alone(cache_format: CacheFormat, kind: str) -> None:
    network, _ = tiny.network(77, **SIZES)
    for certainty in (NEVER, ALWAYS):
        plain = Run(network, cache_format, certainty)
        told = Told(plain.tokens, kind, len(PROMPT))
        drafted = Run(network, cache_format, certainty, drafter=told)
        assert drafted.left()[:4] == plain.left()[:4]
        assert drafted.turn.cut == plain.turn.cut
        assert drafted.probing is not None and plain.probing is not None
        costs = [
            (one.probing.probes, one.probing.tokens, one.probing._last) for one in (drafted, plain)
        ]
        assert costs[0] == costs[1]  # the probes found the same, though tokens were checked ahead


def test_a_cut_computes_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    network, _ = tiny.network(77)
    sizes: list[int] = []
    real = prompt_cache.PromptCache.make_room

    def counted(cache: prompt_cache.PromptCache, tokens: int) -> None:
        sizes.append(tokens)
        real(cache, tokens)

    monkeypatch.setattr(prompt_cache.PromptCache, "make_room", counted)
    run = Run(network, CacheFormat(), ALWAYS, max_tokens=40)
    assert run.turn.cut == "sure" and run.probing is not None
    assert sizes.count(len(STOP)) == run.probing.probes


def test_without_memory_for_a_probe_the_turn_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    network, _ = tiny.network(77)
    want = Run(network, CacheFormat(), None)

    def full(*_: object, **__: object) -> None:
        raise OutOfMemoryError("full")

    monkeypatch.setattr(probe, "prefill", full)
    got = Run(network, CacheFormat(), NEVER)
    assert got.probing is not None and got.probing.probes > 5 and got.probing.tokens == 0
    assert got.left() == want.left()


def test_a_branch_asks_for_the_memory_that_both_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the buffers are to be copied, the cache it branched from keeps its own."""
    network, _ = tiny.network(77)
    cache = prompt_cache.PromptCache(network)
    probe.prefill(network, PROMPT, cache)
    asked: list[int] = []
    monkeypatch.setattr(prompt_cache, "require", lambda size, *_: asked.append(size))
    cache.make_room(200)
    cache.branch().make_room(200)
    assert asked[1] - asked[0] == cache.nbytes > 0


def test_a_turn_may_begin_with_a_probe() -> None:
    network, _ = tiny.network(77)
    block = (14, 2)  # behind which the network has a short answer
    for least, cut in ((ALWAYS, "sure"), (NEVER, "")):
        rule = ProbeRule(10**6, 1, NEVER, SLOT, direct_certainty=least, direct_ids=block)
        turn = TurnSequence(MARKERS, ThinkingBudget(None, STOP), 30, probing=ProbeSchedule(rule))
        cache = prompt_cache.PromptCache(network)
        logits = probe.prefill(network, PROMPT, cache)
        assert logits is not None
        decoder = decode.Decoder(network, cache, Sampler(DRAWN, 24, PROMPT, 5), logits)
        ids = [ids for ids, _ in decode.run(decoder, turn)]
        assert turn.cut == cut and turn.thinking_tokens == 0
        assert (ids[0] == block) == (cut == "sure")
        assert cache.tokens == PROMPT + [token for some in ids for token in some]


def test_a_tool_call_to_come_is_no_answer() -> None:
    network, _ = tiny.network(77)
    cache = prompt_cache.PromptCache(network)
    probe.prefill(network, PROMPT, cache)
    behind = network(mx.array([[*PROMPT, *STOP]]))[0, -1]
    tool = int(mx.argmax(behind).item())
    ask = probe.Ask(STOP, SLOT, tool)
    assert probe.probe(network, cache, ask, MARKERS).answer is None
    assert probe.probe(network, cache, probe.Ask(STOP, SLOT, 23), MARKERS).tokens > len(STOP)
    assert cache.tokens == PROMPT
