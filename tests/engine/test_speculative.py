"""Drafts change nothing but the pace, and are left off where they don't pay."""

from __future__ import annotations

from collections.abc import Sequence

import qwen3_mlx.device.backend  # noqa: F401  (before mlx)

import mlx.core as mx
import pytest

from qwen3_mlx.engine.decode import Decoder
from qwen3_mlx.engine.draft import way_to_check
from qwen3_mlx.engine.draft_model import DraftModel
from qwen3_mlx.engine.lookup import Lookup
from qwen3_mlx.engine.payoff import FIRST_WAIT, LEARNING, ROUNDS, Payoff
from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.sample import Sampler
from qwen3_mlx.engine.side_by_side import step_together
from qwen3_mlx.engine.speculative import Speculating, SpeculativeDecoder
from qwen3_mlx.options import AS_COMPUTED, Sampling
from tests import tiny
from tests.engine import draft_cases
from tests.engine.draft_cases import Always

PLAIN = Sampling(temperature=0.9, top_p=1, top_k=0, presence_penalty=0.5)
GREEDY = Sampling(temperature=0, top_p=1, top_k=0)


@pytest.mark.parametrize("number", range(12))
def test_a_turn_says_the_same_with_drafts(number: int) -> None:
    draft_cases.run_case(number)


@pytest.mark.parametrize("kind", draft_cases.DRAFTERS)
def test_who_is_always_right_saves_steps_and_who_never_is_changes_nothing(kind: str) -> None:
    numbers = [n for n in range(200) if draft_cases.case(n).drafter == kind]
    found = next(n for n in numbers if len(draft_cases.case(n).prompt) == 90)
    tokens, accepted = draft_cases.run_case(found)
    if kind == "right":
        assert accepted >= (tokens - 8) // 2
    elif kind == "wrong":
        assert accepted == 0


def test_keys_belong_to_places() -> None:
    """What is drawn and taken back leaves later draws as they were, across batches of keys."""
    logits = mx.zeros((1, 24))
    straight, back = Sampler(PLAIN, 24, (), 5), Sampler(PLAIN, 24, (), 5)
    expected, got = [], []
    for count in range(600):
        expected.append(straight.draw(logits).item())
        straight.observe(mx.array([count % 24], mx.uint32))
        held = back.state()
        for _ in range(count % 8):
            back.observe(back.draw(logits))
        back.restore(held)
        got.append(back.draw(logits).item())
        back.observe(mx.array([count % 24], mx.uint32))
    assert got == expected
    assert len(back._keys) <= 2 * 256


def drafting(drafter: object, payoff: Payoff, sampling: Sampling = GREEDY) -> SpeculativeDecoder:
    network, _ = tiny.network(77)
    cache = PromptCache(network)
    logits = prefill(network, [1, 2, 3], cache)
    check, reason = way_to_check(network, AS_COMPUTED)
    assert logits is not None and check is not None and not reason
    speculating = Speculating(drafter, check, payoff)  # type: ignore[arg-type]  # tests' own
    sampler = Sampler(sampling, 24, [1, 2, 3], 0)
    return SpeculativeDecoder(network, cache, sampler, logits, None, speculating, lambda: 500)


def plain(sampling: Sampling = GREEDY) -> Decoder:
    network, _ = tiny.network(77)
    cache = PromptCache(network)
    logits = prefill(network, [1, 2, 3], cache)
    assert logits is not None
    return Decoder(network, cache, Sampler(sampling, 24, [1, 2, 3], 0), logits)


def test_a_check_is_asked_for_as_many_rows_as_its_drafts_and_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A check that isn't compiled for them leaves the drafts out."""
    asked = list[tuple[int, int]]()
    decoder = drafting(Lookup(), Always())

    def ready(self: Speculating, rows: int, layers: object) -> bool:
        asked.append((rows, self.payoff.drafts))
        return False

    monkeypatch.setattr(Speculating, "ready", ready)
    other = plain()
    assert [decoder.step() for _ in range(12)] == [other.step() for _ in range(12)]
    assert asked and all(rows == 1 + drafts > 1 for rows, drafts in asked)
    assert decoder.speculating.payoff.turn.drafted == 0


class Failing(Lookup):
    """A drafter that ends like a device's."""

    def propose(self, *_given: object) -> mx.array | None:
        raise RuntimeError("[metal] lost")


def test_a_drafter_that_fails_leaves_the_turn_alone() -> None:
    decoder, other = drafting(Failing(), Always()), plain()
    assert [decoder.step() for _ in range(20)] == [other.step() for _ in range(20)]
    turn = decoder.speculating.payoff.turn
    assert turn.off == "the drafts failed: [metal] lost" and turn.rounds == 0


def test_a_draft_model_follows_a_conversation_that_was_cut() -> None:
    """The same network drafts for itself: every draft is right, before a cut and behind it."""
    network, _ = tiny.network(77)
    decoder, other = drafting(DraftModel(PromptCache(network)), Always(many=3)), plain()
    for tokens in ([4, 5], [6], []):
        assert [decoder.step() for _ in range(6)] == [other.step() for _ in range(6)]
        if tokens:
            decoder.inject(tokens)
            other.inject(tokens)
    turn = decoder.speculating.payoff.turn
    assert turn.accepted == turn.drafted > 9


def test_drafts_stop_at_the_context() -> None:
    network, config = tiny.network(77, max_position_embeddings=32)
    cache = PromptCache(network)
    logits = prefill(network, [1, 2, 3], cache)
    check, _ = way_to_check(network, AS_COMPUTED)
    assert logits is not None and check is not None
    speculating = Speculating(DraftModel(PromptCache(network)), check, Always(many=7))
    sampler = Sampler(GREEDY, 24, (), 0)
    decoder = SpeculativeDecoder(network, cache, sampler, logits, None, speculating, lambda: 999)
    most = 0
    for _ in range(config.context - 3):
        decoder.step()
        most = max(most, cache.layers[0].offset)
    assert most == config.context


@pytest.mark.parametrize(
    ("tokens", "drawn", "expected"),
    [
        ([1, 2, 3, 4, 5, 1, 2], 3, [4, 5, 1]),  # the only place
        ([9, 2, 3, 4, 6, 1, 2, 3, 5, 7, 8, 1, 2], 3, [5, 7, 8]),  # the longer one, not the first
        ([1, 2, 3, 4, 1, 2, 3, 5, 1, 2], 3, [5, 1, 2]),  # of equals the latest
        ([1, 1, 1], 1, [1]),  # up to what is known
        ([1, 2, 3, 4], 5, None),
        ([1], 1, None),
    ],
)
def test_lookup_finds_the_longest_and_latest(
    tokens: list[int], drawn: int, expected: Sequence[int] | None
) -> None:
    found = Lookup().propose(tokens, mx.array([drawn]), 3, Sampler(GREEDY, 24))
    assert (None if found is None else found.tolist()) == expected


def test_lookup_forgets_what_was_cut() -> None:
    lookup, sampler = Lookup(), Sampler(GREEDY, 24)
    assert lookup.propose([1, 2, 3, 4, 5, 1, 2], mx.array([3]), 1, sampler) is not None
    lookup.begin()
    assert lookup.propose([5, 6, 1, 2], mx.array([3]), 1, sampler) is None


def rounds(payoff: Payoff, seconds: float, drafted: int, accepted: int, count: int = 1) -> None:
    for _ in range(count):
        payoff.round(seconds, drafted, accepted)


def learnt() -> Payoff:
    payoff = Payoff()
    for _ in range(LEARNING):
        assert payoff.drafts == 0
        payoff.plain(0.01)
    for drafted in (1, 3, 7):
        rounds(payoff, 9.0, drafted, 0)  # something was compiled
    return payoff


def test_drafts_that_pay_stay_and_grow() -> None:
    payoff = learnt()
    for expected in (1, 3, 7, 7):
        assert payoff.drafts == expected
        rounds(payoff, 0.012, expected, expected)
    rounds(payoff, 0.015, 7, 6, 50)
    assert payoff.drafts == 7 and payoff.off == "" and payoff.turn.gain > 4
    assert payoff.turn.accepted == 18 + 300


def test_drafts_that_do_not_pay_go_and_come_back_ever_later() -> None:
    payoff = learnt()
    rounds(payoff, 0.012, 1, 0, ROUNDS)
    assert payoff.drafts == 0 and payoff.turn.off == payoff.off == "0.83 × the speed of plain steps"
    for wait in (FIRST_WAIT, 2 * FIRST_WAIT):
        for _ in range(wait):
            assert payoff.drafts == 0
            payoff.plain(0.01)
        assert payoff.drafts
        rounds(payoff, 0.05, 3, 0, 2)  # a trial without hope ends early
        assert payoff.drafts == 0
    assert payoff.off == "0.20 × the speed of plain steps"


def test_to_find_nothing_is_no_reason_to_stop_looking() -> None:
    payoff = learnt()
    rounds(payoff, 0.0101, 0, 0, 200)
    assert payoff.drafts and payoff.off == ""
    rounds(payoff, 0.02, 0, 0, 200)  # but to wait for it is
    assert payoff.drafts == 0


def test_what_was_broken_is_not_asked_again() -> None:
    payoff = learnt()
    payoff.give_up("gone")
    payoff.begin_turn()
    assert payoff.drafts == 0 and payoff.turn.off == "gone"


def test_a_probe_in_between_changes_nothing_that_is_said() -> None:
    """It asks that the cache hold what was handed out and no more."""
    network, _ = tiny.network(77)
    decoder, other = drafting(DraftModel(PromptCache(network)), Always(many=7), PLAIN), plain(PLAIN)
    for steps in (3, 1, 5, 9):
        assert [decoder.step() for _ in range(steps)] == [other.step() for _ in range(steps)]
        decoder.settle()
        assert decoder.cache.layers[0].offset == len(decoder.cache.tokens)
    assert decoder.speculating.payoff.turn.accepted


@pytest.mark.parametrize("parts", [1, 2, 3, 5])
def test_lookup_finds_what_it_noted_in_parts(parts: int) -> None:
    """Each occurrence is noted once, wherever the conversation was cut into steps."""
    tokens = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    for end in range(3, len(tokens)):
        lookup = Lookup()
        for last in range(0, len(tokens), parts):
            assert lookup.follow(tokens[:last])
        drawn = mx.array([tokens[end - 1]])
        asked = [*tokens, *tokens[end - 3 : end - 1]]
        found = lookup.propose(asked, drawn, 2, Sampler(GREEDY, 24))
        assert found is not None and found.tolist() == asked[end : end + 2]


def test_lookup_compares_the_latest_eight_places_and_32_tokens() -> None:
    sampler, three = Sampler(GREEDY, 24), [1, 2, 3]
    long = [9, *three, 10]  # the longest in common, and the earliest
    others = [token for n in range(11, 18) for token in (8, *three, n)]
    found = Lookup().propose([*long, *others, 9, 1, 2], mx.array([3]), 1, sampler)
    assert found is not None and found.tolist() == [10]
    others += [8, *three, 18]
    found = Lookup().propose([*long, *others, 9, 1, 2], mx.array([3]), 1, sampler)
    assert found is not None and found.tolist() == [18], "the earliest is forgotten"
    end = [*range(100, 140)]
    for same, want in ((32, 20), (33, 21), (36, 21)):  # the drawn one, and 32 before it
        tokens = [*end, 20, 99, *end[-same:], 21, *end[:-1]]
        found = Lookup().propose(tokens, mx.array([end[-1]]), 1, sampler)
        assert found is not None and found.tolist() == [want]


class Noted(Lookup):
    """Notes what it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = list[str]()

    def follow(self, tokens: Sequence[int], most: int | None = None) -> bool:
        self.asked.append("follow")
        return super().follow(tokens, most)

    def propose(
        self, tokens: Sequence[int], drawn: mx.array, most: int, sampler: Sampler
    ) -> mx.array | None:
        self.asked.append(f"propose {most}")
        return None


def test_a_drafter_reads_when_a_trial_begins_and_not_before() -> None:
    payoff = Payoff()
    decoder = drafting(noted := Noted(), payoff)
    for _ in range(LEARNING):
        decoder.step()
    assert noted.asked == [], "plain steps are timed first, and wait for no drafter"
    decoder.step()
    decoder.step()
    assert noted.asked == ["follow", "propose 3", "propose 3"]


@pytest.mark.parametrize(
    ("room", "want"), [(0, 0), (1, 0), (2, 1), (3, 1), (4, 3), (7, 3), (8, 7), (99, 7)]
)
def test_drafts_leave_room_for_the_token_before_them(room: int, want: int) -> None:
    decoder = drafting(Lookup(), Payoff())
    decoder._room = lambda: room
    assert decoder.most(7) == want and decoder.most(0) == 0
    assert [decoder.most(wanted) for wanted in (1, 2, 3, 6)] == [
        min(one, want) for one in (1, 1, 3, 3)
    ]


def test_a_pass_with_drafts_is_started_before_its_draws_are_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing else is under way meanwhile; plain steps follow one another and are left alone."""
    events: list[str] = []
    begin, draw = mx.async_eval, Sampler.draw_rows

    def begun(*arrays: object) -> None:
        logits = [a for a in arrays if isinstance(a, mx.array) and a.shape[1:] == (24,)]
        events.extend(f"{len(each)} rows began" for each in logits)
        begin(*arrays)

    def drawn(self: Sampler, rows: mx.array, logits: mx.array) -> object:
        events.append("draws")
        return draw(self, rows, logits)

    monkeypatch.setattr(mx, "async_eval", begun)
    monkeypatch.setattr(Sampler, "draw_rows", drawn)
    alone = drafting(DraftModel(PromptCache(tiny.network(77)[0])), Always())
    alone.step()
    assert events == ["4 rows began", "draws"]
    events.clear()
    beside = [drafting(DraftModel(PromptCache(tiny.network(77)[0])), Always()), plain()]
    assert isinstance(beside[0], SpeculativeDecoder) and beside[0].draft(3) == 3
    step_together(beside, beside[0].network.rows)
    assert events == ["5 rows began", "draws"]
    events.clear()
    step_together([plain(), plain()], beside[0].network.rows)
    assert not events
