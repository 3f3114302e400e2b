import random
import time
from typing import Any

import pytest

from qwen3_mlx.errors import OptionError
from qwen3_mlx.events import Answer, Event, Thinking, ToolCall
from qwen3_mlx.text import StopSequences

T, A, CALL = Thinking, Answer, ToolCall("f")


def pushed(stops: Any, chunks: list[str]) -> tuple[str, bool]:
    stop, shown = StopSequences(stops), []
    for chunk in chunks:
        text, hit = stop.push(chunk)
        shown.append(text)
        if hit:
            return "".join(shown), True
    return "".join([*shown, stop.flush()]), False


CASES = [
    ("END", "one END two", "one ", True),
    ("END", "one EN", "one EN", False),
    (["b", "a"], "xab", "x", True),
    (["abcd", "bc"], "xabcd", "xa", True),  # complete first
    (["bc", "abc"], "xabc", "x", True),  # complete at once: the longer one
    (["aab"], "aaaab", "aa", True),
    ("aa", "aXaa", "aX", True),
    ("\n\n", "a\nb\n\nc", "a\nb", True),
    ("停", "请停下", "请", True),
    ([], "text", "text", False),
]


@pytest.mark.parametrize(("stops", "text", "shown", "hit"), CASES)
def test_stop_sequences(stops: Any, text: str, shown: str, hit: bool) -> None:
    assert pushed(stops, [text]) == (shown, hit)
    assert pushed(stops, list(text)) == (shown, hit)


def reference(stops: list[str], text: str) -> tuple[str, bool]:
    """The first prefix of the text that ends in a stop sequence, less the longest such."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(map(len, found))], True
    return text, False


def test_chunks_make_no_difference() -> None:
    rng = random.Random(4)
    hits = 0
    for _ in range(4000):
        stops = ["".join(rng.choices("ab", k=rng.randrange(1, 6))) for _ in range(1 + hits % 3)]
        text = "".join(rng.choices("abc", k=rng.randrange(30)))
        cuts = sorted(rng.choices(range(len(text) + 1), k=rng.randrange(5)))
        chunks = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        expected = reference(stops, text)
        assert pushed(stops, chunks) == pushed(stops, list(text)) == expected
        hits += expected[1]
    assert 1000 < hits < 3900


def test_text_that_can_begin_no_stop_is_shown_at_once() -> None:
    stop = StopSequences(["<end>"])
    assert stop.push("a <en") == ("a ", False)
    assert stop.push("try") == ("<entry", False)
    assert stop.push("<") == ("", False)
    assert stop.flush() == "<"
    assert stop.push("end>") == ("end>", False)  # a new text


def test_nothing_comes_behind_a_stop() -> None:
    stop = StopSequences("x")
    assert stop.push("axb") == ("a", True)
    assert stop.push("c") == ("", True)
    assert stop.flush() == ""
    assert stop.hit


EVENTS: list[Event] = [T("so st"), T("op it"), A("st"), CALL, A("op. "), A("st"), A("op it")]


@pytest.mark.parametrize(
    ("where", "shown", "hit"),
    [
        ("thinking", [T("so ")], True),
        ("both", [T("so ")], True),
        ("answer", [T("so st"), T("op it"), A("st"), CALL, A("op. ")], True),
    ],
)
def test_where_a_stop_counts(where: Any, shown: list[Event], hit: bool) -> None:
    assert StopSequences("stop", where).push_events(EVENTS) == (shown, hit)


def test_a_stop_does_not_cross_from_thought_to_answer() -> None:
    stop = StopSequences("stop", "both")
    assert stop.push_events([T("a st")]) == ([T("a ")], False)
    assert stop.push_events([A("op")]) == ([T("st"), A("op")], False)
    assert stop.push_events([A(" s")]) == ([A(" ")], False)
    assert stop.flush_events() == [A("s")]


@pytest.mark.parametrize("stops", ["", ["a", ""], [1], None, 7, {"a": 1}, [b"a"], ["\ud83d"]])
def test_stops_that_are_none(stops: Any) -> None:
    with pytest.raises(OptionError, match=r"^stop: got .*, expected "):
        StopSequences(stops)


def test_a_place_that_is_none() -> None:
    with pytest.raises(OptionError, match="got 'anywhere', expected 'answer', 'thinking' or"):
        StopSequences("a", "anywhere")  # type: ignore[arg-type]


def test_a_long_stop_takes_no_time() -> None:
    began = time.process_time()
    assert pushed("a" * 10_000 + "b", ["a" * 9_999 + "c"] * 20) == (("a" * 9_999 + "c") * 20, False)
    assert time.process_time() - began < 5
