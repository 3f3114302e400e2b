"""When probes come, what their answers are, and what ends a thought; without any network."""

from __future__ import annotations

import pytest

from qwen3_mlx.engine.probe_schedule import ProbeRule, ProbeSchedule
from qwen3_mlx.engine.short_answer import ShortAnswer, short_answer

RULE = ProbeRule(floor=10, interval=20, certainty=0.9, slot_ids=(1,))


def schedule(spent: int = 0) -> ProbeSchedule:
    found = ProbeSchedule(RULE, spent)
    found.read(b"so.")
    return found


@pytest.mark.parametrize(
    ("pieces", "ends"),
    [
        ([b" so", b"."], True), ([b" so", b"?\""], True), ([b"a", b"\n"], True),
        ([b".", b" Then"], False), ([b"x", "。".encode()], True), ([b"word"], False),
        ([b"done", b".", b"**"], True), ([b"```", b"py\n", b"x = 1\n"], False),
        ([b"``", b"`py\n", b"x\n", b"```", b"\n"], True), ([b"`a`", b"."], True),
        ([b"`ab`", b"."], True), ([b"`a``", b"."], True),
        ([b"x\nb"], True), ([b"\nab"], False),
    ],
)  # fmt: skip
def test_ends_of_sentences_outside_code(pieces: list[bytes], ends: bool) -> None:
    probing = ProbeSchedule(RULE)
    for piece in pieces:
        probing.read(piece)
    assert probing.due(100) == ends


def test_floor_interval_and_backing_off() -> None:
    probing = schedule()
    assert not probing.due(9) and probing.due(10)
    sure, unsure = ShortAnswer("12", 0.95), ShortAnswer("12", 0.5)
    assert not probing.ends_thought(unsure, 10)
    assert not probing.due(29) and probing.due(30)
    assert not probing.ends_thought(ShortAnswer("13", 0.95), 30)  # sure, but of another value
    assert not probing.due(59) and probing.due(60)  # 20 x 1.5 behind the unsure one
    assert not probing.ends_thought(sure, 60)
    assert probing.ends_thought(sure, 90)


def test_two_must_agree_and_the_last_be_sure() -> None:
    probing = schedule()
    assert not probing.ends_thought(ShortAnswer("12", 0.5), 10)
    assert probing.ends_thought(ShortAnswer("12", 0.9), 30)
    probing = schedule()
    assert not probing.ends_thought(ShortAnswer("12", 0.99), 10)
    assert not probing.ends_thought(ShortAnswer("12", 0.89), 30)
    assert not probing.ends_thought(None, 50)
    assert not probing.ends_thought(ShortAnswer("12", 0.99), 80)


def test_an_answer_as_sure_as_asked_for_lengthens_no_interval() -> None:
    probing = schedule()
    assert not probing.ends_thought(ShortAnswer("12", 0.9), 10)
    assert not probing.ends_thought(ShortAnswer("13", 0.9), 30)
    assert not probing.due(49) and probing.due(50)


def test_as_many_agree_as_asked_for() -> None:
    for many in (1, 2, 3, 4):
        probing = ProbeSchedule(ProbeRule(10, 20, 0.9, (1,), agreeing=many))
        assert not probing.ends_thought(ShortAnswer("11", 0.5), 5)
        ends = [probing.ends_thought(ShortAnswer("12", 0.95), 10) for _ in range(many)]
        assert ends == [False] * (many - 1) + [True]
        assert probing.ends_thought(ShortAnswer("12", 0.95), 10), "and more of them"


def test_what_has_no_slot_is_probed_twice_at_most() -> None:
    probing = schedule()
    assert not probing.ends_thought(None, 10) and probing.due(10**6)
    assert not probing.ends_thought(None, 50) and not probing.due(10**6)


def test_earlier_steps_of_the_user_turn_count() -> None:
    assert schedule(spent=10).due(0)
    assert not schedule(spent=4).due(5) and schedule(spent=4).due(6)
    rule = ProbeRule(10, 20, 0.9, (1,), direct_certainty=0.9)
    assert ProbeSchedule(rule).direct and not ProbeSchedule(rule, spent=1).direct


def test_a_direct_answer_needs_no_second_one() -> None:
    probing = ProbeSchedule(ProbeRule(10, 20, 0.5, (1,), direct_certainty=0.9))
    assert not probing.answers_directly(ShortAnswer("12", 0.8)) and not probing.direct
    assert probing.answers_directly(ShortAnswer("12", 0.9))
    assert not probing.answers_directly(None)


@pytest.mark.parametrize(
    ("pieces", "probabilities", "want"),
    [
        ([b" ", b"3", b"9", b"."], [0.2, 0.9, 0.8, 0.1], ("39", 0.8)),
        ([b" **", b"4", b".", b"3", b"**."], [0.2, 0.9, 0.7, 0.8, 0.1], ("4.3", 0.7)),
        ([b" $\\", b"boxed{", b"7", b"}$"], [0.1, 0.1, 0.9, 0.1], ("7", 0.9)),
        ([b" It", b" is", b" Friday", b". So"], [0.5, 0.6, 0.7, 0.1], ("it is friday", 0.5)),
        ([b"-", b"72", b"\n", b"x"], [0.4, 0.9, 0.1, 0.1], ("-72", 0.4)),
        (["七".encode()[:1], "七".encode()[1:], "。".encode()], [0.9, 0.8, 0.1], ("七", 0.8)),
        ([b" 1", b"\xff\xfe", b"0", b"."], [0.9, 0.9, 0.3, 0.1], ("1\ufffd\ufffd0", 0.3)),
        ([b" ", b"**", b"."], [1, 1, 1], None), ([], [], None),
    ],
)  # fmt: skip
def test_only_the_value_s_tokens_count(
    pieces: list[bytes], probabilities: list[float], want: tuple[str, float] | None
) -> None:
    found = short_answer(pieces, probabilities)
    assert (found and (found.value, found.certainty)) == want
