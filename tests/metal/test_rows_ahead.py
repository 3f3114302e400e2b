"""Kernels of rows are compiled while nobody runs; what runs meanwhile waits for no compiler."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import qwen3_mlx.device.backend as backend

import mlx.core as mx
import pytest

from qwen3_mlx.bench.rows import Steps
from qwen3_mlx.chat import draft
from qwen3_mlx.chat.turns import new_scheduler
from qwen3_mlx.engine.background import BACKGROUND
from qwen3_mlx.engine.decode import Decoder
from qwen3_mlx.engine.draft import FusedCheck, way_to_check
from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.sample import Sampler
from qwen3_mlx.engine.side_by_side import REST_SECONDS, SideBySide
from qwen3_mlx.engine.speculative import Speculating, SpeculativeDecoder
from qwen3_mlx.metal import compile_ahead, launch
from qwen3_mlx.metal.launch import Launch
from qwen3_mlx.metal.variants import text_digest
from qwen3_mlx.metal.variants_rows import ROWS
from qwen3_mlx.model import Qwen3
from qwen3_mlx.nn import rows_ahead
from qwen3_mlx.nn.fused_rows import FusedRows
from qwen3_mlx.nn.rows_ahead import PATIENCE_S
from qwen3_mlx.options import AS_COMPUTED, Sampling
from tests import tiny
from tests.chat.schedules import turn
from tests.engine.draft_cases import Always, Told
from tests.metal.judged import keep, net, proven

pytestmark = pytest.mark.usefixtures("judged")

SAMPLED = Sampling(0.8, 0.95, 10, 0.0, 0.0, 1.0)
PROMPTS = [[1, 2, 3], [4, 5], [6, 7, 8, 9], [2, 4]]
TEXT_S = 3.0


class Compiler:
    """Takes three seconds a text of rows, by a clock of its own, and says in what."""

    def __init__(self, run: Callable[[Launch], list[mx.array]]) -> None:
        self._run, self._met = run, set[str]()
        self.now, self.waited = 0.0, 0
        """Seconds; texts that a step had to wait for."""
        self.stepping = False

    def __call__(self, given: Launch) -> list[mx.array]:
        rows = given.constants.get("ROWED") or given.kernel == "skinny"
        if rows and (text := text_digest(given)) not in self._met:
            self._met.add(text)
            self.now += TEXT_S
            self.waited += self.stepping
        return self._run(given)


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[Compiler]:
    made = Compiler(launch.executor)
    monkeypatch.setattr(compile_ahead, "COMPILED", set())
    monkeypatch.setattr(rows_ahead, "COMPILED", compile_ahead.COMPILED)
    monkeypatch.setattr(launch, "executor", made)
    yield made


def decoders(network: Any, count: int) -> list[Decoder]:
    made = []
    for number, prompt in enumerate(PROMPTS[:count]):
        cache = PromptCache(network)
        logits = prefill(network, prompt, cache)
        assert logits is not None and cache.step is not None
        made.append(Decoder(network, cache, Sampler(SAMPLED, 24, prompt, number), logits))
    return made


def steps(side: SideBySide, running: list[Decoder], count: int, compiler: Compiler) -> list[Any]:
    compiler.stepping = True
    found = [side.step(running) for _ in range(count)]
    compiler.stepping = False
    return found


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    found: list[list[int]] = []
    rows = FusedRows.rows

    def noted(self: FusedRows, tokens: Any, caches: Any, new: Any) -> Any:
        found.append(list(new))
        return rows(self, tokens, caches, new)

    monkeypatch.setattr(FusedRows, "rows", noted)
    return found


def side_of(network: Any, compiler: Compiler, most: int = 16) -> SideBySide:
    side = SideBySide(network, AS_COMPUTED, lambda: compiler.now, most=most)
    assert side._fused is not None
    side._fused.ahead._clock = lambda: compiler.now
    return side


def test_no_step_waits_for_a_compiler(compiler: Compiler, passes: list[list[int]]) -> None:
    """Sequences take turns until their pass is compiled, and say the same."""
    network = net()
    keep(network, proven("fused", "fused"))
    alone = [[one.step() for _ in range(6)] for one in decoders(network, 3)]
    side, running = side_of(network, compiler, most=3), decoders(network, 3)
    said = steps(side, running, 2, compiler)
    assert passes == [] and compiler.waited == 0
    assert not side.get_ready(), "whoever asks again at once would wait"
    compiler.now += REST_SECONDS
    while side.get_ready():
        pass
    spent = compiler.now
    said += steps(side, running, 4, compiler)
    assert passes == [[1, 1, 1]] * 4
    assert compiler.waited == 0 and compiler.now == spent > 0
    assert [list(one) for one in zip(*said, strict=True)] == alone
    assert not side.get_ready()


def test_smaller_passes_go_before_the_large_one_is_ready(
    compiler: Compiler, passes: list[list[int]]
) -> None:
    network = net()
    keep(network, proven("fused", "fused"))
    side, running = side_of(network, compiler), decoders(network, 3)
    assert side._fused is not None
    side._fused.ahead.steps = [(1, 1)]
    while side.get_ready():
        pass
    steps(side, running, 2, compiler)
    assert passes == [[1, 1]] * 2 and compiler.waited == 0
    assert (side._counts.steps, side._counts.passes) == (2, 4)


def test_those_that_never_end_wait_once_they_have_lost_as_much(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch, passes: list[list[int]]
) -> None:
    network = net()
    keep(network, proven("fused", "fused"))
    side, running = side_of(network, compiler), decoders(network, 2)
    step = Decoder.step

    def slow(self: Decoder) -> int:
        compiler.now += 2.0
        return step(self)

    monkeypatch.setattr(Decoder, "step", slow)
    taken = 0
    while not passes:
        before = compiler.now
        steps(side, running, 1, compiler)
        taken += 1
        assert compiler.now - before <= 4.0 + TEXT_S, "more than a text in one step"
    lost = 2.0 * taken
    assert lost >= PATIENCE_S
    assert compiler.waited * TEXT_S <= lost + TEXT_S


def test_drafts_of_a_sequence_alone_come_once_their_check_is_compiled(compiler: Compiler) -> None:
    network = net()
    keep(network, proven("fused", "fused"))
    plain = decoders(network, 1)[0]
    said = [plain.step() for _ in range(12)]
    check, _ = way_to_check(network, AS_COMPUTED)
    assert check is not None
    one = decoders(network, 1)[0]
    speculating = Speculating(Told(said, "right", len(PROMPTS[0])), check, Always(many=1))
    given = (network, one.cache, one.sampler, one._logits, None, speculating, lambda: 99)
    one.sampler.restore(one.sampler.state()._replace(draws=0))
    drafting, heard = SpeculativeDecoder(*given), list[int]()
    compiler.stepping = True
    heard += [drafting.step() for _ in range(4)]
    assert speculating.payoff.turn.drafted == 0
    compiler.stepping = False
    check.rows.ahead.steps = draft.ALONE  # type: ignore[attr-defined]
    while check.rows.ahead.compile_next():  # type: ignore[attr-defined]
        pass
    compiler.stepping = True
    heard += [drafting.step() for _ in range(8)]
    assert speculating.payoff.turn.accepted > 0
    assert heard == said and compiler.waited == 0


def test_what_is_not_wanted_is_not_compiled(compiler: Compiler) -> None:
    """No rows of drafts where nobody drafts, nor more sequences than may run."""
    network = net()
    keep(network, proven("fused", "fused"))
    side = side_of(network, compiler, most=2)
    while side.get_ready():
        pass
    few = compiler.now
    assert side._fused is not None and side._fused.ahead.steps == [(1, 1)]
    side._drafts = True
    side._choose_steps()
    while side.get_ready():
        pass
    assert compiler.now > few > 0
    assert side._fused.ahead.steps == [new for new in ROWS if len(new) <= 2]


def test_where_nothing_is_compiled_nothing_waits(compiler: Compiler) -> None:
    network = net()
    keep(network, proven("stock", "stock"))
    side = SideBySide(network, AS_COMPUTED)
    assert side._fused is None and not side.get_ready()
    ahead = rows_ahead.RowsAhead(network)
    assert backend.device() == "metal"
    assert not ahead.compile_next()


def test_a_scheduler_compiles_while_nobody_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """From its start on, a text a round; not between the steps of those that run."""
    model = Qwen3(tiny.runtime(3))
    scheduler, left = new_scheduler(model.runtime), [3]

    def get_ready() -> bool:
        assert not scheduler.busy
        left[0] -= 1
        return left[0] >= 0

    monkeypatch.setattr(scheduler.side_by_side, "get_ready", get_ready)
    assert scheduler.round() and left == [2]
    one = turn(model, "ab", max_tokens=3, thinking=False)
    scheduler.submit(one.task)
    while scheduler.busy:
        scheduler.round()
        assert left == [2]
    assert [scheduler.round() for _ in range(3)] == [True, True, False]


def test_a_model_with_drafts_compiles_their_check_until_a_turn_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runtime, left = tiny.runtime(3), [3]

    def compile_next() -> bool:
        left[0] -= 1
        return left[0] > 0

    rows: Any = SimpleNamespace(ahead=SimpleNamespace(compile_next=compile_next, steps=[]))
    monkeypatch.setattr(draft, "way_to_check", lambda *_: (FusedCheck(rows), ""))
    drafting = draft.with_drafts(runtime, "lookup")
    assert BACKGROUND.wait(60) and left == [0]
    assert rows.ahead.steps == draft.ALONE
    assert drafting.drafts is not None
    left[0] = 3
    drafting.drafts.compile_ahead(lambda: True)
    assert left == [3]


def test_a_bench_of_rows_compiles_them_all(compiler: Compiler) -> None:
    network = net()
    keep(network, proven("fused", "fused"))
    steps = Steps.of(network)
    assert steps.fused_rows is not None and steps.compile_ahead() > 0
    compiled = compiler.now
    assert compiled > 0 and not steps.fused_rows.ahead.compile_next()
    assert Steps.of(network, fused=False).compile_ahead() == 0.0
