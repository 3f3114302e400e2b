"""Events onto a terminal: dim, tags, Markdown, and nothing that could take the terminal over."""

from __future__ import annotations

import io
import re
import signal
import sys
from typing import Any

import pytest
from rich.console import Console

from qwen3_mlx.cli.terminal import markdown
from qwen3_mlx.cli.terminal.interrupt import (
    InterruptPresses,
    ends_after_turn,
    interruptible,
    interrupts_turn,
)
from qwen3_mlx.cli.terminal.markdown import MarkdownAnswer, _Block, split_finished
from qwen3_mlx.cli.terminal.progress import ProgressLine
from qwen3_mlx.cli.terminal.render import PlainAnswer, Renderer, footer
from qwen3_mlx.cli.terminal.screen import Screen, printable
from qwen3_mlx.events import Answer, Done, Stats, Thinking
from tests.fakes import FakeGeneration, Turn

EVERYTHING = "".join(map(chr, range(0x100)))


class Tty(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def terminal_screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    monkeypatch.setattr(sys, "stdout", Tty())
    monkeypatch.setattr(sys, "stderr", Tty())
    return Screen()


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    monkeypatch.setenv("TERM", "xterm")
    return terminal_screen(monkeypatch)


def painted(screen: Screen, turn: Turn, **options: Any) -> tuple[str, str]:
    Renderer(screen, PlainAnswer(screen), **options).paint(FakeGeneration(turn))
    return screen.out.getvalue(), screen.err.getvalue()


def test_printable_keeps_text_newline_and_tab_only() -> None:
    kept = printable(EVERYTHING)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", kept)
    assert kept == "\t\n" + EVERYTHING[32:127] + EVERYTHING[160:]


def test_thinking_is_dim_and_set_off(screen: Screen) -> None:
    out, err = painted(screen, [Thinking("a"), Thinking("b"), Answer("c")])
    assert err == "\x1b[2ma\x1b[0m\x1b[2mb\x1b[0m\n\n"
    assert out == "c\n"


def test_hidden_thinking_leaves_no_trace(screen: Screen) -> None:
    assert painted(screen, [Thinking("a"), Answer("b")], hide_thinking=True) == ("b\n", "")


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_without_styles_the_thought_stands_in_tags(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(name, value)
    out, err = painted(
        terminal_screen(monkeypatch), [Thinking("a"), Answer("b"), Thinking("c"), Answer("d")]
    )
    assert err == "<think>\na\n</think>\n\n<think>\nc\n</think>\n\n"
    assert out == "b\nd\n"


def test_no_control_sequence_reaches_a_terminal(screen: Screen) -> None:
    evil = "\x1b]0;owned\x07\x9b31m\rx\x1b[2J"
    out, err = painted(screen, [Thinking(evil), Answer(evil)])
    assert out == "]0;owned31mx[2J\n"
    assert err.replace("\x1b[2m", "").replace("\x1b[0m", "") == "]0;owned31mx[2J\n\n"
    screen.error(ValueError(evil))
    assert "\x07" not in screen.err.getvalue() and "\x9b" not in screen.err.getvalue()


def test_progress_appears_late_and_goes_away(screen: Screen) -> None:
    slow = ProgressLine(screen, "reading", delay=0)
    slow(1, 4)
    slow(1, 4)
    slow.clear()
    assert screen.err.getvalue() == "\r\x1b[K\x1b[2mreading: 25 %\x1b[0m\r\x1b[K"
    ProgressLine(screen, "quick")(1, 4)
    assert "quick" not in screen.err.getvalue()


def test_footer() -> None:
    stats = Stats(9, 0, 412, 1300, "budget", 0.84, 10, 45.25, 0)
    line = footer(Done("stop", stats), 1024)
    assert line == (
        "412/1,024 thinking (cut by the budget) | 1,300 answer tokens | 45.2 tok/s"
        " | first after 0.8 s"
    )
    assert "stopped by you" in footer(Done("interrupted", Stats()), None)
    assert "cut by max_tokens" in footer(Done("length", Stats()), None)
    probed = Stats(thinking_tokens=40, thinking_cut="sure", probes=2, probe_tokens=60)
    assert "40 thinking (sure of the answer) | 2 probes of 60 tokens |" in footer(
        Done("stop", probed), None
    )


# ── Markdown ─────────────────────────────────────────────────────────────────────────────────

DOCUMENT = """# Title

A paragraph with **bold** and `code`
over two lines.

1. one

2. two
   - inner

   more of two

| a | b |
|---|---|
| 1 | 2 |

```python
x = 1

y = 2
```
> quote

Setext
======

- last
"""


def test_any_chunking_gives_the_same_blocks() -> None:
    def blocks(size: int) -> list[str]:
        tail, found = "", []
        for start in range(0, len(DOCUMENT), size):
            done, tail = split_finished(tail + DOCUMENT[start : start + size])
            found += done
        return [*found, tail]

    whole = blocks(len(DOCUMENT))
    assert "".join(whole) == DOCUMENT
    assert len(whole) == 8
    for size in (1, 2, 3, 7, 50):
        assert blocks(size) == whole


@pytest.mark.parametrize(
    "text", ["a\x0bb\u2028c\n\nd\n\ne", "\n\n\n", "", "[x]: http://y\n\nz\n\nw\n"]
)
def test_nothing_is_lost_in_splitting(text: str) -> None:
    blocks, rest = split_finished(text)
    assert "".join(blocks) + rest == text


class Terminal(Tty):
    """Understands what Live writes: cursor up, erase line, newline; keeps what stands there."""

    def shown(self) -> list[str]:
        rows, row = [""], 0
        for part in re.findall(
            r"\x1b\[\d*[A-Za-z]|\x1b\[\?\d+[hl]|\x1b\[[\d;]*m|\n|\r|[^\x1b\n\r]+", self.getvalue()
        ):
            if part == "\n":
                row += 1
                rows += [""] * (row + 1 - len(rows))
            elif part.endswith("A") and part.startswith("\x1b"):
                row -= int(part[2:-1] or 1)
            elif part == "\x1b[2K":
                rows[row] = ""
            elif part[0] not in "\x1b\r":
                rows[row] += part
        return [line.rstrip() for line in rows]


def stream_markdown(
    screen: Screen,
    text: str,
    size: int,
    monkeypatch: pytest.MonkeyPatch,
    height: int = 10,
    colors: str | None = None,
) -> list[str]:
    terminal = Terminal()
    screen.out = terminal
    view = MarkdownAnswer(screen)
    view._console = Console(
        file=terminal, force_terminal=True, color_system=colors, width=60, height=height
    )
    monkeypatch.setattr(markdown, "FRAME_S", 0.0)
    for start in range(0, len(text), size):
        view.write(text[start : start + size])
    view.close()
    return terminal.shown()


def test_streaming_leaves_what_printing_at_once_would(
    screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = stream_markdown(screen, DOCUMENT, len(DOCUMENT), monkeypatch)
    text = "\n".join(at_once)
    for piece in ("Title", "bold", "inner", "more of two", "x = 1", "quote", "last"):
        assert text.count(piece) == 1
    for size in (1, 5, 64):
        assert stream_markdown(screen, DOCUMENT, size, monkeypatch) == at_once


def test_a_block_taller_than_the_terminal_is_not_cut(
    screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "".join(f"- item {n}\n" for n in range(40)) + "\nend\n"
    shown = "\n".join(stream_markdown(screen, text, 7, monkeypatch, height=6))
    assert [n for n in range(40) if not re.search(rf"item {n}$", shown, re.M)] == []
    assert shown.count("item 7\n") == 1 and "end" in shown


def test_a_growing_block_shows_its_end() -> None:
    console = Console(file=io.StringIO(), width=40, height=6, color_system=None)
    text = "".join(f"- item {n}\n" for n in range(40))
    lines = console.render_lines(_Block(text, gap=True, growing=True), pad=False)
    shown = ["".join(segment.text for segment in line).strip() for line in lines]
    assert shown == ["• item 36", "• item 37", "• item 38", "• item 39"]


def test_markdown_can_smuggle_nothing(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "a \x1b[31mb &#27;[2J [here](http://evil.example/\x07) ![i](x)\n\n`\x9b`\n\n"
    stream_markdown(screen, text, 3, monkeypatch, colors="truecolor")
    written = screen.out.getvalue()
    assert "\x07" not in written and "\x9b" not in written and "\x1b]8" not in written
    assert "\x1b[31m" not in written and "\x1b[2J" not in written
    assert "http://evil.example" in written


# ── Ctrl-C ───────────────────────────────────────────────────────────────────────────────────


def test_what_each_press_means() -> None:
    turn = FakeGeneration([Thinking("a"), Thinking("b"), Answer("c")])
    presses = InterruptPresses(turn, answer_first=True)
    events = presses.watch(turn)
    next(events)
    presses.press()
    presses.press()
    assert turn.wishes == ["answer", "stop"]


def test_ctrl_c_before_and_after_the_thought_stops() -> None:
    for seen in (0, 2):
        turn = FakeGeneration([Thinking("a"), Answer("c"), Answer("d")])
        presses = InterruptPresses(turn, answer_first=True)
        events = presses.watch(turn)
        for _ in range(seen):
            next(events)
        presses.press()
        assert turn.wishes == ["stop"]


def test_one_shot_always_stops() -> None:
    turn = FakeGeneration([Thinking("a"), Answer("c")])
    presses = InterruptPresses(turn, answer_first=False)
    next(presses.watch(turn))
    presses.press()
    assert turn.wishes == ["stop"]


def test_the_signal_is_heard_and_the_handler_put_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    turn = FakeGeneration([Thinking("a"), Answer("b")])
    with interrupts_turn(turn, answer_first=True) as presses:
        events = presses.watch(turn)
        next(events)
        signal.raise_signal(signal.SIGINT)
        assert [type(event) for event in events] == [Answer, Done]
    assert turn.wishes == ["answer"] and presses.count == 1
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(("kind", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_what_ends_the_program_stops_the_turn_first(kind: signal.Signals, code: int) -> None:
    stops: list[str] = []
    with pytest.raises(SystemExit) as ended, ends_after_turn(lambda: stops.append("turn")):
        signal.raise_signal(kind)
        with pytest.raises(KeyboardInterrupt), interruptible():
            signal.raise_signal(kind)  # a question is open, which must not be waited for
        stops.append("kept")
    assert ended.value.code == code and stops == ["turn", "turn", "kept"]
    assert signal.getsignal(kind) is signal.SIG_DFL


def test_a_chat_under_nohup_goes_on() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ends_after_turn(lambda: pytest.fail("it was stopped")):
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
