"""Which part of a turn each token's log probability belongs to."""

from __future__ import annotations

import random
from itertools import groupby

import pytest

from qwen3_mlx.chat import logprob_parts
from qwen3_mlx.chat.logprob_parts import LogprobParts
from qwen3_mlx.events import Answer, Event, Thinking, TokenLogprob, ToolCall
from qwen3_mlx.text import Mode, Splitter, StopSequences, Tokenizer
from tests.text.call_cases import TOOLS
from tests.text.call_texts import anything
from tests.tiny_tokenizer import tiny_backend


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(tiny_backend())


def events_of(tokenizer: Tokenizer, text: str, stop: str = "") -> list[Event]:
    """All events of a turn that says `text`, token by token."""
    splitter = Splitter(tokenizer, Mode(True, None, False), TOOLS, deltas=True)
    parts, found = LogprobParts(tokenizer), list[Event]()
    stops = StopSequences(stop) if stop else None
    for token in tokenizer.encode(text):
        parts.add([token], TokenLogprob(token, tokenizer.id_to_bytes(token), -1.0))
        events = splitter.push([token])
        if stops:
            events, hit = stops.push_events(events)
            if hit:
                return [*found, *parts.placed(events), *parts.rest()]
        found += parts.placed(events)
    rest = splitter.flush()
    rest = [*stops.push_events(rest)[0], *stops.flush_events()] if stops else rest
    return [*found, *parts.placed(rest), *parts.rest()]


def shown(events: list[Event], part: str) -> bytes:
    return b"".join(e.shown for e in events if isinstance(e, TokenLogprob) and e.part == part)


def check(tokenizer: Tokenizer, text: str, events: list[Event], whole: bool = True) -> None:
    logprobs = [e for e in events if isinstance(e, TokenLogprob)]
    ids = tokenizer.encode(text)
    assert [e.token for e in logprobs] == (ids if whole else ids[: len(logprobs)])
    answer = "".join(e.text for e in events if isinstance(e, Answer))
    thought = "".join(e.text for e in events if isinstance(e, Thinking))
    assert shown(events, "answer").decode() == answer, text
    assert shown(events, "thought").decode() == thought, text


CALL = '<tool_call>\n{"name": "f", "arguments": {"text": "a 🙂"}}\n</tool_call>'


def test_thought_answer_call_and_what_is_in_none(tokenizer: Tokenizer) -> None:
    text = f"<think>\nHm 🙂.\n</think>\n\nOne.\n{CALL}\n"
    events = events_of(tokenizer, text)
    check(tokenizer, text, events)
    parts = [one.part for one in events if isinstance(one, TokenLogprob)]
    order = [part for part, _ in groupby(part for part in parts if part)]
    assert order == ["thought", "answer", "call"] and "" in parts
    kinds = [type(e) for e in events if isinstance(e, TokenLogprob | ToolCall)]
    behind = kinds[kinds.index(ToolCall) + 1 :]
    assert len(behind) <= 1, "a call's tokens come before it, and the last line break behind"


@pytest.mark.parametrize("between", ["", "\n", "\n\nthen\n", " 🙂 a\n"])
def test_text_between_calls_and_behind_them(tokenizer: Tokenizer, between: str) -> None:
    text = f"a\n{CALL}{between}{CALL}{between}\na {between}"
    check(tokenizer, text, events_of(tokenizer, text))


@pytest.mark.parametrize("stop", ["STOP", "s🙂", "🙂", "b\n", "\n", "ab"])
def test_a_stop_text_is_in_no_part(tokenizer: Tokenizer, stop: str) -> None:
    for text in ("abc STO s STOP", "s🙂s", "a 🙂 b\n\nc", "aab\n", "aaa"):
        check(tokenizer, text, events_of(tokenizer, text, stop), whole=False)


def test_any_text(tokenizer: Tokenizer) -> None:
    rng = random.Random(5)
    for _ in range(300):
        said = anything(rng)
        text = rng.choice(["", "<think>\nHm.\n</think>\n\n"]) + said
        check(tokenizer, text, events_of(tokenizer, text))


@pytest.mark.parametrize(
    ("left", "text", "wanted", "kept"),
    [
        ("\n\nab", "abc", ("", "abc"), "ab"),  # its line breaks aren't shown
        ("\n\nab", "\n\nabc", ("", "\n\nabc"), "\n\nab"),  # they are
        ("\n\nab", "xyz", ("", "xyz"), "\n\nab"),
        ("\n\n", "\nab", ("", "\nab"), "\n\n"),
        ("ab", "\n\nabc", ("\n\n", "abc"), "ab"),
        ("\nab", "\n\nxy", ("", "\n\nxy"), "\nab"),
        ("\n", "\n", ("", "\n"), "\n"),
    ],
)
def test_how_a_token_meets_the_text_that_is_shown(
    left: str, text: str, wanted: tuple[str, str], kept: str
) -> None:
    token = logprob_parts._Token(None, left, True, left)
    assert logprob_parts._meet(token, text) == wanted
    assert token.left == kept
