"""When drafts are tried, how many, and after what they are left off; without any network."""

from __future__ import annotations

import pytest

from qwen3_mlx.engine.payoff import ROUNDS, Payoff
from qwen3_mlx.events import Speculation

WAIT = 256


def learnt(plain: float = 1.0) -> Payoff:
    """One that knows how long plain steps take, and has met all sizes: it asks for one draft."""
    payoff = Payoff()
    for _ in range(5):
        payoff.plain(plain)
    for drafted in (1, 3, 7):
        payoff.round(99.0, drafted, 0)
    payoff.begin_turn()
    return payoff


def tried(payoff: Payoff, seconds: float, drafted: int, accepted: int, most: int = 200) -> int:
    """Rounds until drafts are off; `most` if they stay on."""
    for count in range(most):
        if not payoff.drafts:
            return count
        payoff.round(seconds, drafted, accepted)
    return most


def wait(payoff: Payoff) -> int:
    """Plain steps until drafts are tried again."""
    count = 0
    while not payoff.drafts:
        payoff.plain(1.0)
        count += 1
    return count


def test_five_plain_steps_are_timed_first() -> None:
    payoff = Payoff()
    for _ in range(4):
        payoff.plain(1.0)
        assert payoff.drafts == 0 and payoff.wanted == 3
    payoff.plain(1.0)
    assert payoff.drafts == payoff.wanted == 3


@pytest.mark.parametrize(
    ("speed", "drafted", "rounds"),
    [
        (0.5, 1, 2),  # without hope
        (0.69, 1, 2),
        (0.71, 1, 8),
        (0.96, 1, 8),
        (0.98, 1, 8),  # harmless, and still no gain
        (1.04, 1, 8),
        (1.05, 1, 200),
        (1.06, 1, 200),
        (0.1, 0, 64),  # nothing was found to be checked, which says less
        (0.96, 0, 64),
        (0.98, 0, 200),
        (1.0, 0, 200),
    ],
)
def test_a_trial_takes_as_long_as_it_needs(speed: float, drafted: int, rounds: int) -> None:
    payoff = learnt(speed)
    assert tried(payoff, 1.0, drafted, 0) == rounds
    assert payoff.off == ("" if rounds == 200 else f"{speed:.2f} × the speed of plain steps")
    assert payoff.turn.off == payoff.off and payoff.turn.gain == pytest.approx(speed)


def test_a_trial_of_many_tokens_ends_by_their_number() -> None:
    """Seven of eight right in one round, and none found in most: 64 tokens are enough."""
    payoff = learnt(0.9)
    for _ in range(7):
        payoff.round(8.0, 7, 7)
    for _ in range(7):
        payoff.round(1.0, 0, 0)
        assert payoff.drafts
    payoff.round(1.0, 0, 0)
    assert payoff.drafts == 0


def test_a_new_trial_begins_after_the_last_was_judged() -> None:
    payoff = learnt()
    for _ in range(2):
        assert payoff.begins
        for _ in range(8):
            payoff.round(1.0, 1, 1)
            payoff._size = 0
        assert payoff.begins and payoff.off == ""
        payoff.round(1.0, 0, 0)
        assert not payoff.begins
        for _ in range(63):
            payoff.round(1.0, 0, 0)


def test_one_that_does_not_pay_is_tried_ever_later_and_in_the_end_every_8192_steps() -> None:
    payoff, waits = learnt(), []
    for _ in range(7):
        assert tried(payoff, 10.0, 1, 0) == 2
        waits.append(wait(payoff))
        assert payoff.drafts == 3, "a middle size again"
    assert waits == [256, 512, 1024, 2048, 4096, 8192, 8192]
    for _ in range(8):
        payoff.round(0.5, 1, 1)
    tried(payoff, 10.0, 1, 0)
    assert wait(payoff) == 256, "a trial that paid is remembered"


def test_a_trial_with_one_draft_must_pay_as_any_other() -> None:
    payoff = learnt(0.98)
    payoff.round(1.0, 1, 0)
    for _ in range(63):
        assert payoff.drafts
        payoff.round(1.0, 0, 0)
    assert payoff.off == "0.98 × the speed of plain steps"


def test_to_have_found_nothing_neither_shortens_the_wait_nor_lengthens_it() -> None:
    payoff = learnt()
    tried(payoff, 10.0, 1, 0)
    wait(payoff)
    for _ in range(64):
        payoff.round(1.0, 0, 0)
    assert payoff.off == ""
    tried(payoff, 10.0, 1, 0)
    assert wait(payoff) == 512


@pytest.mark.parametrize(
    ("size", "drafted", "accepted", "after"),
    [
        (1, 1, 1, 3),
        (3, 3, 3, 7),
        (7, 7, 7, 7),
        (3, 1, 1, 3),  # fewer were found than asked for
        (3, 3, 2, 3),
        (3, 3, 1, 1),
        (7, 7, 4, 7),
        (7, 7, 3, 3),
        (3, 2, 1, 3),  # exactly half
        (1, 1, 0, 1),
    ],
)
def test_more_are_asked_for_where_all_were_right_and_fewer_where_most_were_wrong(
    size: int, drafted: int, accepted: int, after: int
) -> None:
    payoff = learnt()
    for grown in (1, 3):
        if grown < size:
            payoff.round(0.1, grown, grown)
    assert payoff.drafts == size
    payoff.round(0.1, drafted, accepted)
    assert payoff.drafts == after


def test_a_turn_counts_its_own_drafts() -> None:
    payoff = learnt(2.0)
    payoff.round(4.0, 3, 2)
    payoff.round(2.0, 0, 0)
    assert payoff.turn == Speculation(1, 3, 2, round(8 / 6, 3), "")
    payoff.round(4.0, 3, 3)
    assert payoff.turn == Speculation(2, 6, 5, 1.6, "")
    payoff.begin_turn()
    assert payoff.turn == Speculation()
    payoff.round(4.0, 1, 1)
    assert payoff.turn == Speculation(1, 1, 1, 1.0, "")


def test_why_drafts_are_off_is_known_in_the_next_turn_too() -> None:
    payoff = learnt()
    tried(payoff, 10.0, 1, 0)
    payoff.begin_turn()
    assert payoff.turn.off == payoff.off == "0.10 × the speed of plain steps"


def test_the_first_step_of_a_size_is_counted_and_not_judged() -> None:
    payoff = Payoff()
    for _ in range(5):
        payoff.plain(1.0)
    payoff.round(99.0, 3, 2)
    assert payoff.turn == Speculation(1, 3, 2, 0.0, "") and payoff.begins
    payoff.round(1.0, 3, 2)
    assert payoff.turn == Speculation(2, 6, 4, 3.0, "") and not payoff.begins


def test_where_no_plain_step_is_known_drafts_cost_nothing() -> None:
    payoff = Payoff()
    payoff.round(6.0, 0, 0)
    payoff.round(9.0, 1, 1)
    payoff.round(9.0, 1, 1)
    assert payoff.turn.gain == 1.0


def test_the_last_fifteen_plain_steps_count() -> None:
    payoff = learnt(9.0)
    for seconds in [1.0] * 7 + [2.0] + [3.0] * 7:
        payoff.plain(seconds)
    payoff.round(1.0, 0, 0)
    assert payoff.turn.gain == 2.0, "their median"


def test_a_step_that_cannot_be_judged_is_counted() -> None:
    payoff = learnt()
    payoff.shared(99.0, 3, 1, None)
    assert payoff.turn == Speculation(1, 3, 1, 0.0, "") and payoff.begins
    payoff.shared(2.0, 3, 1, 1.5)
    assert payoff.turn == Speculation(2, 6, 2, 1.5, "") and not payoff.begins


def test_what_was_given_up_is_never_asked_for() -> None:
    payoff = learnt()
    payoff.give_up("no memory")
    for _ in range(3 * WAIT):
        assert payoff.drafts == payoff.wanted == 0
        payoff.plain(1.0)
    assert payoff.turn.off == payoff.off == "no memory"


def test_why_it_was_given_up_outlives_the_verdict_of_the_step_in_which_it_was() -> None:
    payoff = learnt()
    for _ in range(ROUNDS - 1):
        payoff.shared(99.0, 3, 0, 98.0)
    payoff.give_up("no memory")
    payoff.shared(99.0, 3, 0, 1.0)
    assert payoff.turn.off == payoff.off == "no memory"
