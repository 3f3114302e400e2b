"""Every character of an answer is on the screen, but for Markdown's own marks."""

from __future__ import annotations

import io
import random
import re
from types import SimpleNamespace

import pytest
from rich.cells import cell_len
from rich.console import Console
from textual.geometry import Size

from qwen3_mlx.cli.terminal import markdown
from qwen3_mlx.cli.terminal.markdown import MarkdownAnswer, block_lines
from qwen3_mlx.cli.tui.answer import Answer
from tests.cli.terminal.test_render import Terminal

WIDTH, ANY_SIZE = 120, Size(0, 0)


def drawn(text: str, width: int = WIDTH) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    lines = block_lines(text, console, console.options)
    return ["".join(segment.text for segment in line).rstrip() for line in lines]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("Use List<String> and vector<int> v", ["Use List<String> and vector<int> v"]),
        ("Dear <name>, your <order-id>", ["Dear <name>, your <order-id>"]),
        ("cat <file >out", ["cat <file >out"]),
        ("a<br>b<BR/>c", ["a", "b", "c"]),
        ("<div>\nx\n</div>\n<!-- y -->", ["<div>", "x", "</div>", "<!-- y -->"]),
        ("<https://x.y> &lt;b&gt; &nbsp;", ["<https://x.y> &lt;b&gt; &nbsp;"]),
        (r"\( x_1 \) \[ a \\ b \] \{a\} \,", [r"\( x_1 \) \[ a \\ b \] \{a\} \,"]),
        ("$a*b + c*d$ for $5 and $10", ["$a*b + c*d$ for $5 and $10"]),
        ("$$\na_1\n= b * c * d\n$$", ["$$", "a_1", "= b * c * d", "$$"]),
        ("\\begin{x}\n- a \\\\\n\\end{x}", ["\\begin{x}", "- a \\\\", "\\end{x}"]),
        ("a\n\\[\n# b\n\\]\nc", ["a", "", "\\[", "# b", "\\]", "", "c"]),
        ("$$\nnever closed", ["$$", "never closed"]),
        (r"C:\_dir\*.txt", [r"C:\_dir\*.txt"]),
        (r"\*no emphasis\*", [r"\*no emphasis\*"]),
        ("a\\\nb", ["a\\", "b"]),
        ("roses are red\nviolets are blue", ["roses are red", "violets are blue"]),
        ("- a\n  b", [" • a", "   b"]),
        ("[1]: https://x.y\n[2]: <z>", ["[1]: https://x.y", "[2]: <z>"]),
        ("2024. That was", ["2024. That was"]),
        ("3. c\n1. d\n1. e", [" 3 c", " 1 d", " 1 e"]),
        ("| a |\n|--|\n| x<br>y |", [" a", " ─", " x", " y"]),
        ("| a |\n|--|\n| x | y |", ["| a |", "|--|", "| x | y |"]),
        ("![a](http://i 't')", ['![a](http://i "t")']),
        ("[l](http://é/a_b 't')", ['l (http://é/a_b) "t"']),
        ("1. a\n23.\n3. c", ["  1 a", " 23", "  3 c"]),
        ("**b** *i* ~~s~~ `c` # no", ["b i s c # no"]),
    ],
)
def test_a_text_is_shown_as(text: str, lines: list[str]) -> None:
    assert drawn(text) == lines


def test_columns_of_wide_letters_stand_below_each_other() -> None:
    text = "| 名前 | n |\n|---|---|\n| 日本語 | 1 |\n| 🌍 | 2 |\n| abc | 3 |"
    places = [cell_len(line[: line.index(c)]) for line, c in zip(
        [drawn(text)[0], *drawn(text)[2:]], "n123", strict=True)]  # fmt: skip
    assert len(set(places)) == 1, drawn(text)


def test_a_word_too_long_for_its_column_is_broken() -> None:
    text = f"| a | b |\n|---|---|\n| {'x' * 60} | {'y' * 60} |"
    assert "".join(drawn(text, 40)).count("x") == 60
    assert "".join(drawn(text, 40)).count("y") == 60


WORDS = ["one", "Two", "<T>", "a<b", "x_1", "C:\\dir", "**bold**", "`co<de>`", "$a*b*c$", "\\(y\\)"]
WORDS += ["<!-- no -->", "&amp;", "[a](http://u/v_w)", "2024.", "\\*", "$5", "~", "想", "é", "|"]
WORDS += ["![i](j.png)", "[k]", "<k@l.m>", "*em*", "_u_", "\\[z\\]", "***", "#", "5)", "\\begin{q}"]


def sentence(chance: random.Random) -> str:
    return " ".join(chance.choices(WORDS, k=chance.randint(1, 8)))


def answer(seed: int) -> str:
    """Blocks of every kind, some of them unfinished."""
    chance = random.Random(seed)
    blocks = []
    for _ in range(chance.randint(1, 6)):
        lines = [sentence(chance) for _ in range(chance.randint(1, 3))]
        text = "\n".join(lines)
        plain = ["one", "two <b>", "$x$", "3"]
        blocks.append(
            chance.choice(
                [
                    text,
                    f"# {lines[0]}",
                    "\n".join(f"- {line}" for line in lines),
                    "\n".join(f"{chance.randint(0, 30)}. {line}" for line in lines),
                    "\n".join(f"> {line}" for line in lines),
                    f"```\n{text}\n```",
                    f"$$\n{text}\n$$",
                    f"\\begin{{m}}\n{text}\n\\end{{m}}",
                    f"<div>\n{text}\n</div>",
                    f"[{chance.randint(1, 9)}]: http://{lines[0]}",
                    "| a | b |\n|---|---|\n"
                    + "".join(
                        f"| {chance.choice(plain)} | {chance.choice(plain)} |\n" for _ in lines
                    ),
                ]
            )
        )
    return chance.choice(["\n\n", "\n"]).join(blocks) + chance.choice(["", "\n"])


def letters(text: str) -> str:
    return "".join(re.findall(r"\w", text.replace("_", "")))


def chunks(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


@pytest.mark.parametrize("seed", range(60))
def test_the_letters_on_the_screen_are_those_of_the_text(seed: int) -> None:
    """In both chats, however the text is cut into pieces."""
    text = answer(seed)
    for size in (2, len(text)):
        full_screen = Answer()
        full_screen.get_content_height(ANY_SIZE, ANY_SIZE, 300)
        for piece in chunks(text, size):
            full_screen.append(piece)
        shown = "\n".join(line.text for line in full_screen.lines)
        assert letters(shown) == letters(text), text


@pytest.mark.parametrize("seed", range(20))
def test_the_letters_by_lines_are_those_of_the_text(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, terminal = answer(1000 + seed), Terminal()
    view = MarkdownAnswer(SimpleNamespace(out=terminal))  # type: ignore[arg-type]
    view._console = Console(file=terminal, force_terminal=True, color_system=None, width=300)
    monkeypatch.setattr(markdown, "FRAME_S", 0.0)
    for piece in chunks(text, 5):
        view.write(piece)
    view.close()
    assert letters("\n".join(terminal.shown())) == letters(text), text
