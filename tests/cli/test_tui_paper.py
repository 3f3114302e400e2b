"""Long blocks of Markdown: cut so that drawing stays cheap, and nothing is lost."""

from __future__ import annotations

import pytest

from qwen3_mlx.cli.tui.answer import Answer, code_blocks, cut_long
from qwen3_mlx.cli.tui.paper import showable

BLOCKS = {
    "code": ["```python\n", *(f"x{n} = {n}\n" for n in range(200)), "```\n"],
    "list": [f"{n}. item x{n} = {n}\n" for n in range(200)],
    "table": ["| a | b |\n", "|---|---|\n", *(f"| x{n} = {n} | y |\n" for n in range(200))],
    "prose": [f"x{n} = {n} and so on and on and on and on " for n in range(400)],
}


@pytest.mark.parametrize("kind", BLOCKS)
def test_every_line_is_drawn(kind: str) -> None:
    answer = Answer()
    answer._width, answer._changed = 78, lambda *_: None  # type: ignore[method-assign]
    for piece in BLOCKS[kind]:
        answer.append(piece)
    text = " ".join(" ".join(line.text for line in answer.lines).split())
    assert [n for n in range(200) if f"x{n} = {n}" not in text] == []
    assert answer.source == "".join(BLOCKS[kind])
    assert len(answer._tail.source) < 7000


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
