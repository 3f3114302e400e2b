"""A turn as a state machine, fed with tokens: what it counts, where it cuts, how it ends."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from qwen3_mlx.engine.control import Control
from qwen3_mlx.engine.decision import Decision, End, GoOn, Inject
from qwen3_mlx.engine.markers import Markers
from qwen3_mlx.engine.sequence import TurnSequence
from qwen3_mlx.options.thinking_budget import ThinkingBudget

OPEN, CLOSE, TOOL, TOOL_END, EOS, BLANK = 24, 5, 25, 26, 7, 8
STOP, SHORT = (3, 9, CLOSE, 2), (8, CLOSE, 8)
BYTES = {BLANK: b"\n", 10: b"{", 11: b"}", 12: b"\xf0\x9f", 13: b"\x98", 14: b"\x80", 15: b"\xff"}


def bytes_of(token: int) -> bytes:
    return BYTES.get(token, b"w")


MARKERS = Markers(OPEN, CLOSE, TOOL, frozenset({EOS}), TOOL_END)
READING = Markers(OPEN, CLOSE, TOOL, frozenset({EOS}), TOOL_END, bytes_of, lambda b: b == b"{}")


def sequence(
    limit: int | None, max_tokens: int = 10_000, markers: Markers = READING, **state: Any
) -> TurnSequence:
    return TurnSequence(markers, ThinkingBudget(limit, STOP, SHORT), max_tokens, **state)


def feed(turn: TurnSequence, tokens: list[int]) -> list[Decision]:
    """Feed `tokens` until one ends the turn; returns what is decided besides going on."""
    decisions: list[Decision] = []
    for token in tokens:
        decision = turn.take(token)
        if not isinstance(decision, GoOn):
            decisions.append(decision)
        if isinstance(decision, End):
            break
    return decisions


def counts(turn: TurnSequence) -> tuple[int, int]:
    return turn.thinking_tokens, turn.answer_tokens


CUT, SHUT = Inject(STOP, OPEN), Inject(SHORT, OPEN)


@pytest.mark.parametrize(
    ("tokens", "state", "want"),
    [
        ([OPEN, 1, 2, CLOSE, 4, 4, EOS], {}, (3, 2)),
        ([1, 2, CLOSE, 4, EOS], {"inside": True}, (2, 1)),
        ([4, 4, 4, EOS], {}, (0, 3)),
        ([BLANK, OPEN, 1, CLOSE, 4, EOS], {}, (3, 1)),
        ([BLANK, BLANK, EOS], {}, (0, 2)),
        ([4, 4, EOS], {"closed": True}, (0, 2)),
        ([CLOSE, 4, EOS], {}, (0, 1)),
        ([OPEN, 1, TOOL, 10, 11, TOOL_END, EOS], {}, (2, 4)),
        ([OPEN, 1, CLOSE, OPEN, 1, CLOSE, 4, EOS], {}, (4, 1)),
        # Behind a closed thought and some answer markers are text.
        ([OPEN, 1, CLOSE, 4, CLOSE, OPEN, 4, EOS], {}, (2, 4)),
        ([4, OPEN, 4, EOS], {"closed": True}, (0, 3)),
        ([4, OPEN, 1, CLOSE, 4, EOS], {}, (2, 2)),
    ],
)
def test_counts_as_documented(
    tokens: list[int], state: dict[str, bool], want: tuple[int, int]
) -> None:
    turn = sequence(None, **state)
    assert feed(turn, tokens) == [End("stop")]
    assert counts(turn) == want and turn.used == len(tokens) and turn.finish_reason == "stop"


def test_an_unclosed_thought_is_counted_to_the_end() -> None:
    turn = sequence(None, max_tokens=3)
    assert feed(turn, [OPEN, 1, 1, 1]) == [End("length")]
    assert counts(turn) == (3, 0)


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("before", [[], [BLANK]])
def test_the_cut_comes_at_the_budget_whoever_opened_the_thought(
    limit: int, before: list[int]
) -> None:
    for start, state in (([*before, OPEN], {}), ([], {"inside": True}), ([OPEN], {"closed": True})):
        turn = sequence(limit, **state)
        decisions = feed(turn, start + [1] * 60)
        assert decisions == [CUT]
        assert turn.cut == "budget"
        assert turn.thinking_tokens == max(limit, len(start)), state


def test_a_budget_as_long_as_the_thought_cuts_before_its_end() -> None:
    """As the documented procedure does: ``</think>`` would be token limit + 1."""
    thought = [OPEN, 1, 1, 1]
    for limit, cuts in ((3, [CUT]), (4, [CUT]), (5, [])):
        assert feed(sequence(limit), [*thought, CLOSE, 4]) == cuts


def test_no_budget_never_cuts() -> None:
    assert feed(sequence(None), [OPEN] + [1] * 5_000) == []


@pytest.mark.parametrize("state", [{}, {"closed": True}])
def test_budget_zero_shuts_a_thought_that_opens_all_the_same(state: dict[str, bool]) -> None:
    turn = sequence(0, **state)
    assert feed(turn, [OPEN, 4, 4, EOS]) == [SHUT, End("stop")]
    assert counts(turn) == (1, 2) and turn.cut == "budget"


def test_an_answer_without_a_thought_is_not_cut() -> None:
    turn = sequence(5)
    assert feed(turn, [BLANK] + [4] * 50 + [EOS]) == [End("stop")]
    assert counts(turn) == (0, 51) and turn.cut == ""


def test_blocks_share_one_budget() -> None:
    turn = sequence(50)
    assert feed(turn, [OPEN, 9, CLOSE, OPEN] + [9] * 400) == [CUT]
    assert turn.thinking_tokens == 50


def test_what_is_opened_behind_the_cut_is_shut_without_the_long_text() -> None:
    turn = sequence(3)
    assert feed(turn, [OPEN, 1, 2]) == [CUT]
    for _ in range(100):
        assert feed(turn, [OPEN]) == [SHUT]
    assert feed(turn, [4, EOS]) == [End("stop")]
    assert counts(turn) == (103, 1) and turn.cut == "budget"


def test_a_thought_is_cut_at_the_users_wish_and_again() -> None:
    turn = sequence(None)
    turn.control.interrupt("answer")
    assert feed(turn, [OPEN]) == [CUT] and turn.cut == "user"
    assert feed(turn, [OPEN, 1]) == []  # with no budget, nothing but the user bounds it
    turn.control.interrupt("answer")
    assert feed(turn, [1]) == [SHUT]


def test_a_wish_in_an_answer_is_forgotten() -> None:
    turn = sequence(None)
    feed(turn, [OPEN, CLOSE, 4])
    turn.control.interrupt("answer")
    assert feed(turn, [4]) == [] and turn.control.wish is None


def test_a_call_in_an_open_thought_is_not_cut() -> None:
    turn = sequence(3)
    assert feed(turn, [OPEN, 1, TOOL, 10, *[2] * 50, 11]) == []
    assert counts(turn) == (2, 53)


def test_what_is_no_call_was_thought() -> None:
    mention = sequence(6)  # the word behind <tool_call> begins no call
    assert feed(mention, [OPEN, 1, TOOL, 2, 2, 2]) == [CUT]
    assert counts(mention) == (6, 0)
    broken = sequence(8)  # {w} can't be read
    assert feed(broken, [OPEN, 1, TOOL, 10, 2, 11, TOOL_END]) == []
    assert feed(broken, [1, 1]) == [CUT]
    abandoned = sequence(50)  # the thought ends inside of it
    assert feed(abandoned, [OPEN, 1, TOOL, 10, CLOSE, 4, EOS]) == [End("stop")]
    assert counts(abandoned) == (4, 1)


def test_a_thought_behind_a_call_counts_too() -> None:
    turn = sequence(5)
    assert feed(turn, [OPEN, 1, TOOL, 10, 11, TOOL_END, OPEN, 1, 1, 1]) == [CUT]
    assert turn.thinking_tokens == 5


def test_without_tools_nothing_is_a_call() -> None:
    plain = Markers(OPEN, CLOSE, None, frozenset({EOS}), None, bytes_of)
    turn = sequence(5, markers=plain)
    assert feed(turn, [OPEN, 1, TOOL, 10, 10]) == [CUT]


EMOJI = [12, 13, 14]  # two bytes, one, one


def test_a_cut_waits_for_the_end_of_a_character() -> None:
    for limit, waits in ((3, 0), (4, 2), (5, 1), (6, 0)):
        turn = sequence(limit)
        assert feed(turn, [OPEN, 1, 1, *EMOJI, 1, 1][: limit + waits]) == [CUT], limit
        assert turn.thinking_tokens == limit + waits


def test_a_cut_waits_for_three_tokens_at_most() -> None:
    turn = sequence(2)
    assert feed(turn, [OPEN, 12, 12, 12, 12]) == [CUT]
    assert turn.thinking_tokens == 5
    assert feed(sequence(2), [OPEN, 15]) == [CUT]  # what can't become a character


def test_a_cut_does_not_wait_where_the_answer_needs_the_room() -> None:
    turn = sequence(2, max_tokens=2 + len(STOP) + 1)
    assert feed(turn, [OPEN, 12]) == [CUT]


def test_max_tokens_bounds_what_is_put_in_too() -> None:
    for max_tokens in range(1, 30):
        turn = sequence(2, max_tokens)
        decisions = feed(turn, [OPEN] + [1] * 40)
        assert isinstance(decisions[-1], End) and decisions[-1].reason == "length"
        assert turn.used <= max_tokens
        assert (CUT in decisions) == (max_tokens > 2 + len(STOP))


def test_spelled_markers_count_where_the_vocabulary_has_none() -> None:
    """`<`, `think`, `>` and their like, cut anywhere."""
    pieces = [b"<th", b"ink", b">", b"</", b"think", b">\n", b"hm", b"<", b"/think>"]
    spelled = Markers(None, None, None, frozenset({99}), None, lambda token: pieces[token])
    turn = sequence(None, markers=spelled)
    feed(turn, [0, 1, 2, 6, 6, 3, 4, 5, 6])
    assert counts(turn) == (7, 1)  # the closer's first two pieces can't be told from thought
    cut = sequence(6, markers=spelled)
    assert feed(cut, [0, 1, 2] + [6] * 50) == [Inject(STOP)]
    assert cut.thinking_tokens == 6
    answer = sequence(6, markers=spelled)
    assert feed(answer, [0, 6] + [6] * 50) == []
    again = sequence(None, markers=spelled)
    feed(again, [0, 1, 2, 6, 7, 8, 6, 6])
    assert counts(again) == (5, 2)


def test_a_spelled_marker_counts_with_its_last_piece() -> None:
    pieces = [b"<th", b"ink>", b"</thi", b"nk>", b"w", b"<t", b"x"]
    spelled = Markers(None, None, None, frozenset({99}), None, lambda token: pieces[token])
    turn = sequence(None, markers=spelled)
    for token, want in (
        (0, (0, 0)),
        (1, (2, 0)),
        (4, (3, 0)),
        (2, (4, 0)),
        (3, (4, 0)),
        (4, (4, 1)),
    ):
        feed(turn, [token])
        assert counts(turn) == want
    other = sequence(None, markers=spelled)
    feed(other, [5, 6, 4, 4])
    assert counts(other) == (0, 4), "what only begins like an opener is the answer's"
    known = replace(spelled, open=OPEN, close=CLOSE, bytes_of=lambda t: b"<th" if t == 0 else b"w")
    turn = sequence(None, markers=known)
    feed(turn, [0, OPEN, 4, CLOSE, 4])
    assert counts(turn) == (2, 2), "nor is it waited for where there is a token"


def test_every_cut_waits_for_its_own_character() -> None:
    turn = sequence(None)
    for cut in (CUT, SHUT, SHUT):
        assert feed(turn, [OPEN]) == []
        turn.control.interrupt("answer")
        assert feed(turn, [12, 12, 12]) == [] and feed(turn, [12]) == [cut]


def test_closers_in_pieces_are_text_where_the_vocabulary_has_the_token() -> None:
    pieces = {1: b"</", 2: b"think", 3: b">"}
    whole = Markers(OPEN, CLOSE, None, frozenset({EOS}), None, lambda t: pieces.get(t, b"w"))
    turn = sequence(10, markers=whole)
    assert feed(turn, [OPEN, 1, 2, 3] + [4] * 20) == [CUT]


def test_stop_wins_over_everything_but_the_end() -> None:
    turn = sequence(2)
    turn.control.interrupt("stop")
    turn.control.interrupt("answer")
    assert feed(turn, [OPEN]) == [End("interrupted")]
    ended = sequence(2)
    ended.control.interrupt("stop")
    assert feed(ended, [EOS]) == [End("stop")]


def test_the_reader_of_a_turn_can_end_it() -> None:
    turn = sequence(None)
    turn.take(4)
    turn.end("stop")
    assert turn.take(4) == End("stop") and counts(turn) == (0, 2)


def test_every_short_turn_keeps_its_promises() -> None:
    """All turns of five tokens from eight kinds: thought and total stay within bounds."""
    kinds = (OPEN, CLOSE, TOOL, TOOL_END, EOS, BLANK, 1, 10)
    for tokens in product(kinds, repeat=5):
        for limit, inside in product((None, 0, 2), (False, True)):
            if inside and limit == 0:
                continue
            turn = sequence(limit, 9, inside=inside)
            shut = 0
            for token in tokens:
                decision = turn.take(token)
                if isinstance(decision, Inject):
                    shut += 1
                elif isinstance(decision, End):
                    break
            assert turn.used <= 9
            assert not shut or turn.cut == "budget"
            if limit is not None and not {TOOL, BLANK} & set(tokens):
                assert turn.thinking_tokens <= max(limit, 1) + shut


def test_a_control_knows_two_wishes() -> None:
    with pytest.raises(ValueError, match="'answer' or 'stop'"):
        Control().interrupt("now")  # type: ignore[arg-type]


def test_a_stop_that_comes_while_a_thought_is_cut_is_not_lost() -> None:
    """Another thread may ask at any moment, also between a look at the request and its end."""

    class Cutting(TurnSequence):
        def _waits_for_character(self, injected: int) -> bool:
            self.control.interrupt("stop")
            return False

    turn = Cutting(READING, ThinkingBudget(None, STOP, SHORT), 10_000, inside=True)
    turn.control.interrupt("answer")
    assert feed(turn, [4, 4, 4]) == [CUT, End("interrupted")]
