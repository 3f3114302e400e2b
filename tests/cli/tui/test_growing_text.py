"""Long blocks of Markdown: cut so that drawing stays cheap, and nothing is lost."""

from __future__ import annotations

import gc
import random
import re
import time
from itertools import accumulate

import pytest
from rich.cells import cell_len
from rich.text import Text
from textual.geometry import Size
from textual.strip import Strip

from qwen3_mlx.cli.tui import code
from qwen3_mlx.cli.tui.answer import Answer, code_blocks, cut_long
from qwen3_mlx.cli.tui.growing_text import canvas, segments, showable, wrapped
from qwen3_mlx.cli.tui.thought import ThoughtText

BLOCKS = {
    "code": ["```python\n", *(f"x{n} = {n}\n" for n in range(200)), "```\n"],
    "one string": ["~~~py\n", 's = """\n', *(f"x{n} = {n}\n" for n in range(200)), '"""\n~~~\n'],
    "list": [f"{n}. item x{n} = {n}\n" for n in range(200)],
    "nested list": ["- all\n", *(f"  - item x{n} = {n}\n" for n in range(200))],
    "code in a list": [
        "1. do\n\n   ```py\n",
        *(f"   x{n} = {n}\n" for n in range(200)),
        "   ```\n",
    ],
    "quote": [f"> x{n} = {n}\n" for n in range(200)],
    "one line": [f"x{n} = {n} **b** " for n in range(500)],
    "table": ["| a | b |\n", "|---|---|\n", *(f"| x{n} = {n} | y |\n" for n in range(200))],
    "Chinese": [f"第x{n}={n}个，" + "字" * 20 for n in range(200)],
    "prose": [f"x{n} = {n} and so on and on and on and on " for n in range(400)],
}


@pytest.mark.parametrize("kind", BLOCKS)
def test_every_line_is_drawn(kind: str) -> None:
    answer = Answer()
    answer._width, answer._changed = 78, lambda *_: None  # type: ignore[method-assign]
    for piece in BLOCKS[kind]:
        answer.append(piece)
    text = "".join("".join(line.text.strip("▌ ") for line in answer.lines).split())
    assert [n for n in range(200) if f"x{n}={n}" not in text] == []
    assert answer.source == "".join(BLOCKS[kind])
    assert kind != "quote" or all(line.text.startswith("▌") for line in answer.lines)
    assert kind != "table" or "|" not in text
    assert len(answer._tail.source) < 7000


@pytest.mark.parametrize("kind", BLOCKS)
def test_what_is_drawn_per_piece_does_not_grow_with_the_answer(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, drawn = Answer(), [0]
    answer._width, answer._changed = 78, lambda *_: None  # type: ignore[method-assign]
    draw = Answer.draw

    def counted(self: Answer, source: str, width: int) -> list[Strip]:
        lines = draw(self, source, width)
        drawn[-1] += len(lines)
        return lines

    monkeypatch.setattr(Answer, "draw", counted)
    for piece in BLOCKS[kind] * (1 if kind == "one line" else 2):
        drawn.append(0)
        answer.append(piece)
    assert max(drawn) <= 130  # of one piece, with what it finishes
    quarter = len(drawn) // 4
    assert sum(drawn[-quarter:]) <= 1.2 * sum(drawn[quarter : 2 * quarter])


def test_a_long_paragraph_is_cut_at_the_end_of_a_line() -> None:
    text = "".join(f"word{n} is **bold{n}** and `so` on " for n in range(200))
    parts = Answer()
    parts._width, parts._changed = 60, lambda *_: None  # type: ignore[method-assign]
    for start in range(0, len(text), 25):
        parts.append(text[start : start + 25])
    assert len(parts._blocks) > 3
    assert [line.text for line in parts.lines] == [strip.text for strip in Answer().draw(text, 60)]


def test_code_is_cut_where_no_string_is_open() -> None:
    lines = ["a = 1\n"] * 5 + ['s = """\n'] + ["if x:\n"] * 30 + ['"""\n'] + ["b = 2\n"] * 3
    head, rest, _ = cut_long("```python\n" + "".join(lines[:20]))
    assert head.count("\n") == 7 and rest.count("if x") == 14
    head, rest, _ = cut_long("```python\n" + "".join(lines))
    assert head.count("\n") == len(lines) + 2 and rest == "```python\n"


def test_code_looks_as_it_does_in_one_piece() -> None:
    """The colours, blanks and breaks of whole code, though it came and was drawn in parts."""
    body = "def f(x):\n    s = '''\n\n    # no comment\n'''\n\n\n    return s  # why\n\n" * 9
    source = f"```python\n{body}x = {'1 + ' * 30}1\n```\n"
    parts, whole = Answer(), code.fenced(source)
    assert whole is not None
    parts._width, parts._changed = 40, lambda *_: None  # type: ignore[method-assign]
    for start in range(0, len(source), 7):
        parts.append(source[start : start + 7])
    assert [list(line) for line in parts.lines] == [list(line) for line in code.draw(whole, 38 + 2)]
    assert len(parts._blocks) > 5


FRAME_S = 0.05
LINES = ["x" * 100_000, '{"a":[1,"v"]},' * 7000, "ab cd " * 16_667, "漢字é" * 33_333]


def seconds_of_frames(line: str, language: str, piece: int) -> list[float]:
    """Processor time of each of the frames that add `line` to code in pieces."""
    answer, seconds = Answer(), list[float]()
    answer.get_content_height(Size(0, 0), Size(0, 0), 80)
    answer.append(f"```{language}\n")
    for start in range(0, len(line), piece):
        began = time.thread_time()
        answer.append(line[start : start + piece])
        seconds.append(time.thread_time() - began)
    rows = [row.text for row in answer.lines]
    assert "".join("".join(rows).split()) == "".join(line.split())
    assert max(map(cell_len, rows)) <= 79
    assert {cell_len(row) for row in rows[:-1]} <= {77, 78, 79}  # full, but for half a character
    return seconds


QUIET_S = 0.006
"""What `slower_than_quiet` measures on a quiet machine, in seconds; there no frame takes 40 ms."""


def slower_than_quiet() -> float:
    """How much longer than on a quiet machine the processor takes for Python's loops now."""
    letters = {"a": 1}
    began = time.thread_time()
    list(accumulate(map(letters.__getitem__, "a" * 100_000)))
    return (time.thread_time() - began) / QUIET_S


@pytest.mark.parametrize("line", LINES, ids=["x", "json", "words", "wide"])
@pytest.mark.parametrize("language", ["", "json", "python"])
@pytest.mark.parametrize("piece", [2000, 100_000])
def test_a_line_of_code_of_any_length_is_drawn_within_a_frame(
    line: str, language: str, piece: int
) -> None:
    """In pieces, or all at once. Drawing it whole with each piece, or by words, takes 0.1 s."""
    gc.disable()  # within a turn the chat has no full collections either
    try:
        best = [1.0] * -(-len(line) // piece)
        for _ in range(25):  # other processes slow a frame down, never in all tries
            best = list(map(min, best, seconds_of_frames(line, language, piece)))
            slower = max(slower_than_quiet(), 1.0)
            if max(best) < FRAME_S * slower:
                break
        assert max(best) < FRAME_S * slower
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("```py\nx\n```\n", ["x\n"]),
        ("```py\nx", ["x"]),
        ("~~~~\n```\nx\n~~~\n~~~~~ \n\n", ["```\n", "x\n", "~~~\n"]),
        ("  ```\n  x\n    y\n z\n  ```", ["x\n", "  y\n", "z\n"]),
        ("```py\n```no end\nx", ["```no end\n", "x"]),
        ("```py", None),
        ("```a`b```\n", None),
        ("    ```\nx\n", None),
        ("```py\nx\n```\ntext\n", None),
        ("text\n```\nx\n```\n", None),
    ],
)
def test_what_is_fenced(source: str, lines: list[str] | None) -> None:
    block = code.fenced(source)
    assert (block.lines if block else None) == lines


def test_cut_code_has_its_fence_on_both_sides() -> None:
    text = "~~~sh\n" + "".join(f"echo {n}\n" for n in range(40))
    head, rest, gap = cut_long(text)
    assert head.startswith("~~~sh\n") and head.endswith("~~~\n")
    assert rest.startswith("~~~sh\n") and not gap
    lines = [*head.split("\n")[1:-2], *rest.split("\n")[1:-1]]
    assert lines == [f"echo {n}" for n in range(40)]


def test_the_code_of_an_answer() -> None:
    assert code_blocks("a\n\n```py\nx\n```\n- b\n  ```\n  y\n  ```\n") == ["x\n", "y\n"]


def test_nothing_that_could_move_the_cursor_or_turn_a_row() -> None:
    assert showable("a\x1b[1mb\u202ec\td\x07\r\n") == "a[1mbc    d\n"
    assert showable("שלום 你好") == "שלום 你好"


@pytest.mark.parametrize("size", [1, 3, 99])
def test_the_empty_lines_of_a_thought_stay_however_it_comes(size: int) -> None:
    thought, text = ThoughtText(), "one\n\ntwo\n\n\nthree"
    thought._width, thought._changed = 20, lambda *_: None  # type: ignore[method-assign]
    for start in range(0, len(text), size):
        thought.append(text[start : start + size])
    assert [line.text for line in thought.lines] == ["│ one", "│ ", "│ two", "│ ", "│ ", "│ three"]


WORDS = ["a", "is,", "because", "=", "字字字", "👩‍👩‍👧", "x" * 15, "е́", "…", "\u00a0b", "  ", "\n"]


@pytest.mark.parametrize("width", [8, 14, 40])
@pytest.mark.parametrize("seed", range(8))
def test_a_thought_that_grows_is_drawn_as_one_that_is_whole(seed: int, width: int) -> None:
    chance = random.Random(seed)
    thought, line = ThoughtText(), ""
    thought._width, thought._changed = width, lambda *_: None  # type: ignore[method-assign]
    for _ in range(120):
        piece = chance.choice(WORDS) + " " * chance.choice([0, 1, 1, 1, 3])
        line = (line + piece).rpartition("\n")[2]
        thought.append(piece)
        shown = [strip.text for strip in thought._moving]
        fresh = [strip.text for strip in ThoughtText().draw(line, width)] if line else []
        words = re.findall(r"^\s*\S+|\S+", line)
        if max(map(cell_len, words), default=0) <= width - 2:
            assert shown == fresh
        else:  # the blanks behind a word that is broken: see `Rows`
            assert "".join("".join(shown).split()).replace("│", "") == "".join(line.split())


def test_a_thought_of_one_line_costs_the_same_however_long_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn, draw = [], ThoughtText.draw

    def counted(self: ThoughtText, source: str, width: int) -> list[Strip]:
        drawn.append(len(source))
        return draw(self, source, width)

    monkeypatch.setattr(ThoughtText, "draw", counted)
    thought = ThoughtText()
    thought._width, thought._changed = 78, lambda *_: None  # type: ignore[method-assign]
    for n in range(2000):
        thought.append(f"so {n} and ")
    assert len(thought.lines) > 200
    assert max(drawn) < 2 * 78


def test_thoughts_are_dim() -> None:
    lines = ThoughtText().draw("one two three", 10)
    assert [line.text for line in lines] == ["│ one two", "│ three"]
    assert all(part.style and part.style.dim for line in lines for part in line)


@pytest.mark.parametrize("style", ["", "dim"])
@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "  two",
        "end  ",
        "one\ntwo",
        "\n",
        "a\tb",
        "日本",
        "e\u0301",
        "x" * 8,
        "x" * 9,
        "a bc " * 3,
    ],
)
def test_short_text_is_as_rich_would_wrap_it(text: str, style: str) -> None:
    whole = Text(text)
    if style:
        whole.stylize(style)
    lines = [Strip(segments(line)) for line in whole.wrap(canvas(), 8, tab_size=4)]
    assert wrapped(text, 8, style) == lines
