"""Drafts beside others: what they cost all is charged to whoever has them."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import qwen3_mlx.device.backend  # noqa: F401  (before mlx)

import mlx.core as mx
import pytest

from qwen3_mlx.engine.decode import Decoder
from qwen3_mlx.engine.draft import way_to_check
from qwen3_mlx.engine.draft_model import DraftModel
from qwen3_mlx.engine.lookup import QUICKER, Lookup
from qwen3_mlx.engine.payoff import LEARNING, Payoff
from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.sample import Sampler
from qwen3_mlx.engine.side_by_side import AT_ONCE, PlainTimes, SideBySide
from qwen3_mlx.engine.speculative import Speculating, SpeculativeDecoder
from qwen3_mlx.engine.task import Counts
from qwen3_mlx.nn.cache.full import KVCache
from qwen3_mlx.nn.transformer import Qwen3Network
from qwen3_mlx.options import AS_COMPUTED, Sampling
from tests import tiny

GREEDY = Sampling(temperature=0, top_p=1, top_k=0)


@cache
def network() -> Qwen3Network:
    """Made by the first test: a process that has computed can't be forked (`tests.mutate`)."""
    return tiny.network(77)[0]


class Run:
    """Sequences of which some draft, on a device that takes what `cost(rows, sequences)` says."""

    def __init__(self, decoders: Sequence[Decoder], cost: Callable[[int, int], float]) -> None:
        self.now, self.rows = 0.0, list[list[int]]()
        self.decoders = decoders
        self.side = SideBySide(network(), AS_COMPUTED, lambda: self.now)
        forward = self.side.forward
        assert forward is not None

        def timed(tokens: Any, caches: Any, new: Sequence[int]) -> mx.array:
            self.now += cost(len(tokens), len(new))
            self.rows.append(list(new))
            return forward(tokens, caches, new)

        self.side.forward = timed

    def steps(self, count: int, waited: float = 0.0) -> list[list[int]]:
        """What each sequence says in so many steps."""
        said: list[list[int]] = [[] for _ in self.decoders]
        for _ in range(count):
            for mine, token in zip(said, self.side.step(self.decoders, waited), strict=True):
                mine.append(token)
            for mine, decoder in zip(said, self.decoders, strict=True):
                while decoder.ready:
                    mine.append(decoder.step())
        return said


def plain(prompt: Sequence[int]) -> Decoder:
    cache = PromptCache(network())
    logits = prefill(network(), prompt, cache)
    assert logits is not None
    return Decoder(network(), cache, Sampler(GREEDY, 24, prompt, 0), logits)


def drafting(prompt: Sequence[int], drafter: Any) -> SpeculativeDecoder:
    one, (check, _) = plain(prompt), way_to_check(network(), AS_COMPUTED)
    assert check is not None
    given = (Speculating(drafter, check, Payoff()), lambda: 10**6)
    return SpeculativeDecoder(network(), one.cache, one.sampler, one._logits, None, *given)


def right() -> DraftModel:
    return DraftModel(PromptCache(network()))


class Wrong(DraftModel):
    """Never right."""

    def propose(self, *given: Any) -> mx.array | None:
        found = super().propose(*given)
        return None if found is None else (found + 1) % 24


def test_nobody_drafts_before_plain_steps_of_as_many_are_known() -> None:
    run = Run([drafting([1, 2, 3], right()), plain([4, 5])], lambda rows, _: 1.0)
    run.steps(LEARNING)
    assert run.rows == [[1, 1]] * LEARNING
    run.steps(2)
    assert run.rows[-2:] == [[4, 1], [8, 1]], "three drafts, and more as they are right"
    third = plain([7, 8])
    run.decoders = [*run.decoders, third]
    run.steps(LEARNING + 1)
    assert run.rows[-LEARNING - 1 :] == [[1, 1, 1]] * LEARNING + [[8, 1, 1]]


def test_passes_are_counted() -> None:
    """One a step, or one a sequence where there is no way to step them together."""
    run = Run([plain([1, 2, 3]), plain([4, 5]), plain([6])], lambda rows, _: 1.0)
    run.side._counts = counts = Counts()
    run.steps(4)
    assert (counts.steps, counts.passes) == (4, 4)
    run.side.forward = None
    run.steps(2)
    assert (counts.steps, counts.passes) == (6, 10)


def test_drafts_that_pay_for_all_stay() -> None:
    one = drafting([1, 2, 3], right())
    run = Run([one, plain([4, 5])], lambda rows, _: 1.0 + 0.05 * rows)
    said = run.steps(60)
    turn = one.speculating.payoff.turn
    assert len(said[0]) > 6 * len(said[1]) and turn.off == ""
    seconds = 1.1 / 2 + 7 * 0.05  # its half of a plain step, and what seven drafts cost
    assert turn.gain == pytest.approx(8 * 0.55 / seconds, rel=0.1)


def test_drafts_that_are_right_and_cost_the_others_too_much_are_left_off() -> None:
    """Alone these would pay: eight tokens in four times the time; beside seven others not."""
    one = drafting([1, 2, 3], right())
    others = [plain([n]) for n in range(4, 11)]
    run = Run([one, *others], lambda rows, _: 1.0 if rows == 8 else 4.0)
    run.steps(LEARNING + 30)
    payoff = one.speculating.payoff
    assert payoff.wanted == 0 and payoff.turn.off.endswith("× the speed of plain steps")
    assert sum(max(rows) > 1 for rows in run.rows) <= 6
    assert run.rows[-9:] == [[1] * 8] * 9


def test_each_is_judged_by_its_own() -> None:
    good, bad = drafting([1, 2, 3], right()), drafting([5, 6], Wrong(PromptCache(network())))
    run = Run([good, bad], lambda rows, _: 1.0 + 0.05 * rows)
    run.steps(LEARNING + 30)
    assert good.speculating.payoff.turn.off == "" and run.rows[-1] == [8, 1]
    assert bad.speculating.payoff.turn.off and not bad.speculating.payoff.wanted


def test_rows_are_shared_out_and_never_more_than_a_pass_takes() -> None:
    run = Run([drafting([n], right()) for n in range(6)], lambda rows, _: 1.0)
    run.steps(LEARNING + 12)
    assert max(map(sum, run.rows)) <= 16 and run.rows[-1] == [2, 2, 2, 2, 4, 4]
    run = Run([drafting([n], right()) for n in range(16)], lambda rows, _: 1.0)
    run.steps(LEARNING + 3)
    assert run.rows[-1] == [1] * 16


@pytest.mark.parametrize("most", [1, AT_ONCE])
def test_a_long_conversation_is_read_in_several_steps(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the others never wait for all of it; such a step teaches nothing about plain ones."""
    monkeypatch.setattr("qwen3_mlx.engine.side_by_side.AT_ONCE", most)
    one = drafting([n % 24 for n in range(20)], right())
    run = Run([one, plain([4, 5])], lambda rows, _: 1.0)
    run.steps(LEARNING)
    known = len(run.side.times._last[2])
    run.steps(3)
    assert (len(run.side.times._last[2]) - known, [max(r) > 1 for r in run.rows[-3:]]) == (
        (0, [False] * 3) if most == 1 else (0, [True] * 3)
    )


def test_a_lookup_notes_many_at_once_but_not_all() -> None:
    lookup, tokens = Lookup(), list(range(3 * QUICKER))
    assert [lookup.follow(tokens, 1) for _ in range(3)] == [False, False, True]
    assert lookup.follow(tokens) and Lookup().follow(tokens)


def test_what_was_waited_for_since_is_the_step_s() -> None:
    """A chunk of a prompt between two steps waits for the pass that the first left behind."""
    run = Run([plain([1]), plain([2])], lambda rows, _: 0.25)
    run.steps(LEARNING, waited=0.75)
    assert run.side.times.of(2) == 1.0 and run.side.times.of(3) is None
    one = drafting([1, 2, 3], right())
    run = Run([one], lambda rows, _: math.nan)
    run.steps(1, waited=5.0)
    assert one.speculating.payoff._plain[0] >= 5.0 and one.waited == 0.0


def test_times_are_medians() -> None:
    times = PlainTimes()
    for seconds in (1.0, 1.0, 9.0, 1.0):
        times.note(3, seconds)
    assert times.of(3) is None
    times.note(3, 1.0)
    assert times.of(3) == 1.0


class Compiled:
    """Fused rows of which only some are compiled: by the most sequences, and the most rows of one.

    Stands for `FusedRows`, which needs a GPU (tests/metal has it on a CPU's compiler).
    """

    def __init__(self, sequences: int, rows: int) -> None:
        self.sequences, self.most, self.fault = sequences, rows, ""
        self.asked, self.losses = list[list[int]](), list[float]()
        self.ahead, self.reads = self, False
        self.steps: list[tuple[int, ...]] = []
        self.compiled = 0
        self.traced = True

    def is_traced(self, caches: Sequence[Any], new: Sequence[int]) -> bool:
        assert len(caches) == len(new) > 1
        return self.traced

    def ready(self, caches: Sequence[Any], new: Sequence[int]) -> bool:
        self.asked.append(list(new))
        return len(new) <= self.sequences and max(new) <= self.most

    def lost(self, seconds: float) -> None:
        self.losses.append(seconds)

    def compile_next(self) -> bool:
        self.compiled += 1
        return True


def run_of(compiled: Compiled, decoders: Sequence[Decoder], monkeypatch: pytest.MonkeyPatch) -> Run:
    way = (network().rows, compiled)
    monkeypatch.setattr("qwen3_mlx.engine.side_by_side.way_together", lambda *_: way)
    return Run(decoders, lambda rows, _: float(rows))


def test_a_step_is_uneven_where_it_copies_or_traces_and_never_twice_in_a_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoders = [plain([1, 2, 3]), plain([4, 5])]
    side = run_of(compiled := Compiled(16, 16), decoders, monkeypatch).side
    one, other = caches = [decoder.cache for decoder in decoders]
    assert side.is_even([]) and side.is_even(caches) and side.is_even(caches)
    compiled.traced = False
    assert [side.is_even(caches) for _ in range(4)] == [False, True, False, True]
    assert all(side.is_even([cache]) for cache in caches), "one alone takes no pass of rows"
    compiled.traced = True
    monkeypatch.setattr(other, "grows", lambda tokens: tokens == 1)
    assert [side.is_even(caches) for _ in range(4)] == [False, True, False, True]
    assert side.is_even([one]) and not side.is_even([other]) and side.is_even([other])


def test_a_fused_pass_meets_few_combinations_of_capacities(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each is traced, which takes a step of eight sequences of 8B some 30 ms more on an H200."""
    monkeypatch.setattr(KVCache, "step", 4)
    draw, passes = random.Random(0), list[tuple[int, ...]]()
    prompts = [[1 + draw.randrange(20)] * draw.randrange(1, 40) for _ in range(12)]
    decoders = [plain(prompt) for prompt in prompts]
    side = run_of(Compiled(16, 16), decoders, monkeypatch).side
    forward = side.forward
    assert forward is not None

    def noted(tokens: Any, caches: Any, new: Sequence[int]) -> mx.array:
        passes.append(tuple(layers[0].capacity for layers in caches))
        return forward(tokens, caches, new)

    side.forward = noted
    said: list[list[int]] = [[] for _ in decoders]
    for _ in range(10):
        present = draw.sample(range(12), 3)
        for index, token in zip(present, side.step([decoders[n] for n in present]), strict=True):
            said[index].append(token)
    assert all(sorted(each) == list(each) for each in passes)
    assert {capacity for each in passes for capacity in each} <= {8, 16, 32, 64}
    for prompt, tokens in zip(prompts, said, strict=True):
        alone = plain(prompt)
        assert tokens == [alone.step() for _ in tokens], "each gets its own"


def test_a_pass_that_is_not_compiled_is_made_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest that are; what that costs beyond one pass may be spent on compiling."""
    prompts = [[1, 2, 3], [4, 5], [6], [7, 8], [9]]
    want = Run([plain(prompt) for prompt in prompts], lambda rows, _: 1.0).steps(3)
    run = run_of(compiled := Compiled(2, 1), [plain(prompt) for prompt in prompts], monkeypatch)
    run.side._counts = counts = Counts()
    assert run.steps(3) == want
    assert run.rows == [[1, 1], [1, 1]] * 3, "and the fifth by itself"
    assert (counts.steps, counts.passes) == (3, 9)
    assert compiled.asked[-1] == [1] * 5, "what is asked for last is compiled next"
    assert compiled.losses == [pytest.approx(4 * (1 - 1 / 3))] * 3
    compiled.sequences = 5
    run.steps(1)
    assert run.rows[-1] == [1] * 5 and len(compiled.losses) == 3


def test_drafts_wait_until_their_passes_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    one = drafting([1, 2, 3], right())
    run = run_of(compiled := Compiled(9, 14), [one, plain([4, 5])], monkeypatch)
    run.steps(LEARNING + 1)
    assert run.rows == [[1, 1]] * (LEARNING + 1)
    assert compiled.asked[-3:] == [[1, 1], [2, 1], [15, 1]], "the least, and the most of 16 rows"
    assert compiled.losses == [0.25 * 2.0] * (LEARNING + 1)
    compiled.most = 15
    run.steps(1)
    assert run.rows[-1] == [4, 1] and len(compiled.losses) == LEARNING + 1


def test_what_is_compiled_ahead_has_drafts_once_somebody_drafts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = run_of(compiled := Compiled(9, 16), [plain([1]), plain([2])], monkeypatch)
    run.steps(1)
    without = compiled.steps
    assert without and {max(rows) for rows in without} == {1}
    compiled.reads = True  # whose steps read short prompts, too
    run.side._choose_steps()
    assert {rows for rows in compiled.steps if max(rows) > 1} == {(2,), (4,), (16,)}
    run.decoders = [drafting([1, 2, 3], right()), plain([2])]
    run.steps(1)
    assert set(without) < set(compiled.steps) and max(map(max, compiled.steps)) > 1


def test_kernels_are_compiled_a_second_after_the_last_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = run_of(compiled := Compiled(9, 16), [plain([1]), plain([2])], monkeypatch)
    assert run.side.get_ready() and compiled.compiled == 1, "nobody has stepped yet"
    run.now = 100.0
    run.steps(1)
    for now, compiles in ((100.99, False), (101.0, True)):
        run.now = now
        assert run.side.get_ready() == compiles
    compiled.fault = "not right"
    assert not run.side.get_ready() and compiled.compiled == 2
    assert not Run([plain([1])], lambda rows, _: 1.0).side.get_ready(), "nothing to be compiled"
