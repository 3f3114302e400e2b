import random
from collections.abc import Iterable, Sequence
from itertools import count, groupby
from pathlib import Path

import pytest

from qwen3_mlx.events import Answer, Event, Thinking, ToolCall
from qwen3_mlx.options.thinking_budget import STOP_TEXT
from qwen3_mlx.text import Mode, Splitter, Tokenizer
from tests.tiny_tokenizer import MARKERS, tiny_backend

OUTSIDE = Mode(thinking=True, template_flag=None, starts_inside=False)
INSIDE = Mode(thinking=True, template_flag=None, starts_inside=True)
CALL = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
T, A, F = Thinking, Answer, ToolCall("f", {"a": 1})


def with_markers(markers: Sequence[str]) -> Tokenizer:
    backend = tiny_backend(markers)
    return Tokenizer(backend, [backend.token_to_id("<|endoftext|>")])


@pytest.fixture(scope="module")
def tiny() -> Tokenizer:
    return with_markers(MARKERS)


@pytest.fixture(scope="module")
def spelled() -> Tokenizer:
    """A vocabulary without the markers: they come as ordinary pieces of text."""
    return with_markers(["<|endoftext|>", "<|im_end|>"])


def merge(events: Iterable[Event]) -> list[Event]:
    merged: list[Event] = []
    for kind, group in groupby(events, type):
        run = list(group)
        merged += run if kind is ToolCall else [kind("".join(event.text for event in run))]
    return merged


def split(tokenizer: Tokenizer, chunks: Iterable[Sequence[int]], mode: Mode) -> list[Event]:
    splitter = Splitter(tokenizer, mode)
    events = [event for chunk in chunks for event in splitter.push(chunk)]
    return merge(events + splitter.flush())


def one_by_one(ids: Sequence[int]) -> list[list[int]]:
    return [[token] for token in ids]


TURNS = [
    # plain answers
    ("Hello.", OUTSIDE, [A("Hello.")]),
    ("", OUTSIDE, []),
    ("\n\nHello.\n<|im_end|>", OUTSIDE, [A("Hello.\n")]),
    ("<|im_end|>", OUTSIDE, []),
    ("Hello.<|im_end|><|endoftext|>", OUTSIDE, [A("Hello.")]),
    # thought and answer
    (
        "<think>\nSo.\n\nYes.\n</think>\n\nHello.<|im_end|>",
        OUTSIDE,
        [T("So.\n\nYes."), A("Hello.")],
    ),
    ("\nSo.\n</think>\n\nHello.", INSIDE, [T("So."), A("Hello.")]),
    ("<think>\nSo.\n</think>\n\nHello.", INSIDE, [T("So."), A("Hello.")]),
    ("<think>So.</think>Hello.\n\nBye.", OUTSIDE, [T("So."), A("Hello.\n\nBye.")]),
    ("<think>\n\n</think>\n\nHello.", OUTSIDE, [A("Hello.")]),
    ("<think></think>", OUTSIDE, []),
    ("\n\n</think>\n\n", INSIDE, []),
    (
        "<think>\nSo" + STOP_TEXT + "Hello.",
        OUTSIDE,
        [T("So" + STOP_TEXT.split("\n</think>")[0]), A("Hello.")],
    ),
    # thought without an end
    ("<think>\nSo.\n\n", OUTSIDE, [T("So.\n\n")]),
    ("So.<|im_end|>", INSIDE, [T("So.")]),
    # a closer too many, an opener too many
    ("Hello.</think>\n\nBye.", OUTSIDE, [A("Hello.\n\nBye.")]),
    ("</think>\n\nHello.", OUTSIDE, [A("Hello.")]),
    # behind a closed thought and some answer, markers are text
    ("<think>a</think>b</think>c", OUTSIDE, [T("a"), A("b</think>c")]),
    (
        "<think>\na\n</think>\n\nb\n<think>\nc\n</think>\n\nd",
        OUTSIDE,
        [T("a"), A("b\n<think>\nc\n</think>\n\nd")],
    ),
    ("<think>\na\n</think>\n\n<think>\nc\n</think>\n\nd", OUTSIDE, [T("a\n\nc"), A("d")]),
    ("<think>\na\n</think>\n\n<think>\n", OUTSIDE, [T("a")]),
    ("<think>a<think>b</think>c", OUTSIDE, [T("ab"), A("c")]),
    ("<think>a</think>b<think>c", INSIDE, [T("a"), A("b<think>c")]),
    # tool calls
    (CALL, OUTSIDE, [F]),
    (f"<think>\nSo.\n</think>\n\n{CALL}<|im_end|>", OUTSIDE, [T("So."), F]),
    (f"Look:\n\n{CALL}\n{CALL}\n", OUTSIDE, [A("Look:"), F, F]),
    (f"Look:\n{CALL}\nDone.", OUTSIDE, [A("Look:"), F, A("\n\nDone.")]),
    (f"{CALL}\nDone.\n", OUTSIDE, [F, A("Done.\n")]),
    ("<tool_call><function=f><parameter=a>1</parameter></function></tool_call>", OUTSIDE, [F]),
    # no tool calls: the text, nothing lost
    ("a\n<tool_call>{oops}</tool_call>\nb", OUTSIDE, [A("a\n<tool_call>{oops}</tool_call>\nb")]),
    ('a <tool_call>\n{"name": "f"', OUTSIDE, [A('a <tool_call>\n{"name": "f"')]),
    (f"<tool_call>{CALL}", OUTSIDE, [A("<tool_call>"), F]),
    (
        "<tool_call>a</think>b<think>c</tool_call>d",
        OUTSIDE,
        [A("<tool_call>a</think>b<think>c</tool_call>d")],
    ),
    ("a</tool_call>b", OUTSIDE, [A("a</tool_call>b")]),
    # a call in an unclosed thought ends it, the mention of one does not
    (f"<think>\nSo.\n{CALL}\nHello.", OUTSIDE, [T("So."), F, A("Hello.")]),
    (f"So.\n{CALL}", INSIDE, [T("So."), F]),
    ("<think>a <tool_call> tag</think>b", OUTSIDE, [T("a <tool_call> tag"), A("b")]),
    (
        "<think>a <tool_call>x</tool_call> c</think>b",
        OUTSIDE,
        [T("a <tool_call>x</tool_call> c"), A("b")],
    ),
    ("<think>a <tool_call>x", OUTSIDE, [T("a <tool_call>x")]),
]


@pytest.mark.parametrize(("text", "mode", "expected"), TURNS)
def test_turns(tiny: Tokenizer, text: str, mode: Mode, expected: list[Event]) -> None:
    ids = tiny.encode(text)
    assert split(tiny, one_by_one(ids), mode) == expected
    assert split(tiny, [ids], mode) == expected


def calls_in_thought(text: str, mode: Mode) -> bool:
    thought = text.split("</think>")[0]
    return "<tool_call>" in thought and (mode is INSIDE or "<think>" in thought)


# Inside a thought a spelled <tool_call> is thought: that has its own test.
SPELLED = [turn for turn in TURNS if not calls_in_thought(turn[0], turn[1])]


@pytest.mark.parametrize(("text", "mode", "expected"), SPELLED)
def test_turns_with_markers_that_are_only_spelled(
    spelled: Tokenizer, text: str, mode: Mode, expected: list[Event]
) -> None:
    assert split(spelled, one_by_one(spelled.encode(text)), mode) == expected


def test_a_spelled_tool_call_inside_a_thought_is_thought(
    tiny: Tokenizer, spelled: Tokenizer
) -> None:
    assert split(spelled, [spelled.encode(f"<think>{CALL}</think>b")], OUTSIDE) == [T(CALL), A("b")]
    pieces = [token for letter in CALL for token in tiny.encode(letter)]  # not the markers' ids
    assert tiny.tool_open not in pieces
    ids = [tiny.think_open, *pieces, tiny.think_close, *tiny.encode("b")]
    assert split(tiny, [ids], OUTSIDE) == [T(CALL), A("b")]
    assert split(tiny, [pieces], OUTSIDE) == [A(CALL)]


FRAGMENTS = [
    *("<think>", "</think>", "<think>\n", "\n</think>\n\n", "<|im_end|>", CALL),
    *("<tool_call>", "</tool_call>", "\n", "\n\n", " ", "Hello", "你好", "👩‍👩‍👧‍👦", "مرحبا"),
    *("<", "</", "<thi", "</think", "<tool_", "think>", "<<think>", "<|im_"),
]


def random_ids(tokenizer: Tokenizer, rng: random.Random) -> list[int]:
    """A turn of fragments, with broken bytes between them."""
    ids: list[int] = []
    for _ in range(rng.randrange(1, 14)):
        if rng.random() < 0.2:
            ids += rng.choices(range(256), k=2)
        ids += tokenizer.encode(rng.choice(FRAGMENTS))
    return ids


def random_chunks(ids: list[int], rng: random.Random) -> list[list[int]]:
    cuts = sorted(rng.choices(range(len(ids) + 1), k=rng.randrange(6)))
    return [ids[a:b] for a, b in zip([0, *cuts], [*cuts, len(ids)], strict=True)]


@pytest.mark.parametrize("mode", [OUTSIDE, INSIDE])
@pytest.mark.parametrize("vocabulary", ["tiny", "spelled"])
def test_chunks_make_no_difference(
    vocabulary: str, mode: Mode, request: pytest.FixtureRequest
) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(vocabulary)
    rng = random.Random(11)
    kinds: set[type] = set()
    for _ in range(400):
        ids = random_ids(tokenizer, rng)
        events = split(tokenizer, one_by_one(ids), mode)
        assert split(tokenizer, [ids], mode) == events
        assert split(tokenizer, random_chunks(ids, rng), mode) == events
        kinds |= {type(event) for event in events}
    assert kinds == {Thinking, Answer, ToolCall}


def joined(events: Iterable[Event], kind: type) -> str:
    return "".join(event.text for event in events if isinstance(event, kind))


def reference(tokenizer: Tokenizer, ids: Iterable[int], inside: bool) -> tuple[str, str]:
    """Thought and answer of a turn without tool calls, decoded run by run."""
    texts: dict[bool, list[str]] = {True: [], False: []}
    hidden = {*tokenizer.eos_ids, tokenizer.think_open, tokenizer.think_close}
    closed = False
    alone = count()
    key = lambda token: (token, next(alone)) if token in hidden else (None, -1)  # noqa: E731
    for (marker, _), run in groupby(ids, key=key):
        answered = closed and not inside and "".join(texts[False]).strip("\n")
        if marker is None or (answered and marker not in tokenizer.eos_ids):
            texts[inside].append(tokenizer.decode(run))
        elif marker not in tokenizer.eos_ids:
            closed = inside or (closed and marker == tokenizer.think_close)
            inside = marker == tokenizer.think_open
            closed = closed and not inside
    return "".join(texts[True]), "".join(texts[False])


@pytest.mark.parametrize("mode", [OUTSIDE, INSIDE])
def test_texts_are_the_full_decode_without_markers(tiny: Tokenizer, mode: Mode) -> None:
    rng = random.Random(12)
    for _ in range(400):
        ids = [token for token in random_ids(tiny, rng) if token != tiny.tool_open]
        events = split(tiny, one_by_one(ids), mode)
        thought, answer = reference(tiny, ids, mode.starts_inside)
        assert joined(events, Thinking).strip("\n") == thought.strip("\n")
        assert joined(events, Answer).strip("\n") == answer.strip("\n")
        assert not joined(events, Thinking).startswith("\n")
        assert not joined(events, Answer).startswith("\n")
        assert not any(event.text == "" for event in events)


def test_spelled_markers_split_like_tokens(tiny: Tokenizer, spelled: Tokenizer) -> None:
    rng = random.Random(13)
    plain = [fragment for fragment in FRAGMENTS if "tool_call>" not in fragment]
    for _ in range(400):
        text = "".join(rng.choices(plain, k=rng.randrange(1, 14)))
        assert split(spelled, one_by_one(spelled.encode(text)), OUTSIDE) == split(
            tiny, [tiny.encode(text)], OUTSIDE
        )


def test_text_is_shown_at_once(tiny: Tokenizer) -> None:
    splitter = Splitter(tiny, OUTSIDE)
    ids = tiny.encode("<think>\nSo it is.\n\nYes.\n</think>\n\nHello.\n\nBye.")
    shown = [joined(splitter.push([token]), Thinking | Answer) for token in ids]
    for token, text in zip(ids, shown, strict=True):
        raw = tiny.decode([token])
        if raw.strip("\n") and token not in (tiny.think_open, tiny.think_close):
            assert text.endswith(raw.rstrip("\n"))  # held back newlines come first
        else:
            assert text == ""


def test_characters_do_not_cross_a_marker(tiny: Tokenizer) -> None:
    of_byte = {tiny.id_to_bytes(token): token for token in range(tiny.vocab_size)}
    first, *rest = (of_byte[bytes([value])] for value in "é".encode())
    ids = [first, tiny.think_close, *rest]
    assert split(tiny, [ids], INSIDE) == [T("\ufffd"), A("\ufffd")]


def test_a_real_turn(qwen3_files: Path) -> None:
    real = Tokenizer.from_dir(qwen3_files)
    text = f"<think>\nدعني أفكر 👩‍👩‍👧‍👦…\n</think>\n\n答案是 391。\n{CALL}<|im_end|>"
    events = split(real, one_by_one(real.encode(text)), OUTSIDE)
    assert events == [T("دعني أفكر 👩‍👩‍👧‍👦…"), A("答案是 391。"), F]
