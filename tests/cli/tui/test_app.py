"""The full-screen chat: what a turn looks like, and what every key does to it."""

from __future__ import annotations

import asyncio
import re
import threading
from typing import Any

import pytest
from rich.cells import cell_len

from qwen3_mlx.cli.tui.answer import Answer as AnswerText
from qwen3_mlx.cli.tui.thought import Thought
from qwen3_mlx.errors import ContextError, ModelNotFoundError
from qwen3_mlx.events import Answer, Done, Stats, Thinking
from tests.cli.tui.pilot import run_chat
from tests.fakes import FakeModel, Pause, Prefill

SLOW = 0.05
LONG = [step for n in range(2000) for step in (Thinking(f"thought {n}. "), SLOW)] + [
    Answer("The answer.")
]
WORDY = [step for n in range(2000) for step in (Answer(f"word{n} "), SLOW)]


async def test_a_turn_is_a_folded_thought_and_an_answer_in_markdown() -> None:
    async with run_chat([Thinking("hm, two"), Answer("It is **4**.")]) as chat:
        await chat.type("What is 2 + 2?")
        await chat.idle()
        assert "› What is 2 + 2?" in chat.seen
        assert "▸ thought 1 tokens" in chat.seen and "hm, two" not in chat.seen
        assert "It is 4." in chat.seen and "**" not in chat.seen
        assert "20 tok/s" in chat.status and "1.50 GB" in chat.status
        assert "11/4.1k" in chat.status  # prompt and answer; the thought does not stay
        await chat.press("ctrl+r")
        await chat.until("│ hm, two")


async def test_the_thought_streams_with_its_gauge_and_folds_when_the_answer_starts() -> None:
    async with run_chat(LONG) as chat:
        await chat.type("/budget 1024")
        await chat.type("think")
        await chat.until("thought 9.")
        assert "│ thought 0. thought 1." in chat.seen
        assert re.search(r"▾ thinking \d+/1,024 · ", chat.seen)
        await chat.until("thinking ░░░░░░░░░░")
        await chat.press("escape")
        await chat.idle()
        assert "▸ thought" in chat.seen and "✂ cut by you" in chat.seen
        assert "The answer." in chat.seen


@pytest.mark.parametrize(("show", "live", "after"), [("always", 1, 1), ("never", 0, 0)])
async def test_show_thinking(show: str, live: bool, after: bool) -> None:
    async with run_chat(LONG, show_thinking=show) as chat:
        await chat.type("think")
        await chat.until("▾ thinking" if show == "always" else "▸ thinking")
        await chat.until(lambda: re.search(r"thinking \d{2}", chat.status))
        assert ("thought 1." in chat.seen) is bool(live)
        await chat.press("ctrl+c")
        await chat.idle()
        assert ("thought 1." in chat.seen) is bool(after)


async def test_a_gauge_without_an_end_says_that_the_budget_is_automatic() -> None:
    stats, go_on = Stats(thinking_tokens=2, thinking_cut="sure"), threading.Event()
    script = [Thinking("a"), Thinking("b"), Pause(go_on), Answer("c"), Done("stop", stats)]
    async with run_chat(script) as chat:
        await chat.type("/budget auto")
        await chat.type("x")
        await chat.until("▾ thinking 2/auto")
        go_on.set()
        await chat.idle()
        assert "thought 2/auto tokens" in chat.seen and "✂ sure of the answer" in chat.seen


async def test_the_mark_of_a_cut_by_the_budget() -> None:
    stats, go_on = Stats(thinking_tokens=2, thinking_cut="budget"), threading.Event()
    async with run_chat(
        [
            Thinking("a"),
            Thinking("b"),
            Thinking("stop"),
            Pause(go_on),
            Answer("c"),
            Done("stop", stats),
        ]
    ) as chat:
        await chat.type("/budget 2")
        await chat.type("x")
        await chat.until("▾ thinking 2/2")  # what it was told to stop with isn't counted
        go_on.set()
        await chat.idle()
        assert "thought 2/2 tokens" in chat.seen and "✂ cut by the budget" in chat.seen


async def test_the_line_of_a_thought_tells_its_count_though_the_model_pauses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("qwen3_mlx.cli.tui.thought.LABEL_S", 2.0)
    first, second = threading.Event(), threading.Event()
    script = [Thinking("a"), Pause(first), Thinking("b"), Pause(second), Answer("c")]
    async with run_chat(script) as chat:
        await chat.type("x")
        await chat.until("▾ thinking 1 ")
        first.set()  # within the two seconds in which the line doesn't change by itself
        await chat.until("▾ thinking 2 ")
        second.set()
        await chat.idle()


async def test_the_time_of_a_thought_ends_with_its_last_piece() -> None:
    """What follows may be a question to the user about a tool, which is no thinking."""
    go_on = threading.Event()
    async with run_chat([Thinking("a"), 0.2, Thinking("b"), Pause(go_on), Answer("c")]) as chat:
        await chat.type("x")
        await chat.until("thinking 2 · 0.")
        await asyncio.sleep(2)
        go_on.set()
        await chat.idle()
        assert re.search(r"▸ thought 2 tokens · [01]\.", chat.seen)


async def test_the_counts_of_the_engine_hold_and_empty_lines_before_the_answer_go() -> None:
    stats = Stats(thinking_tokens=7)
    async with run_chat(
        [Thinking("hm"), Answer("\n"), Answer("\nIt"), Done("stop", stats)]
    ) as chat:
        await chat.type("x")
        await chat.idle()
        assert "▸ thought 7 tokens" in chat.seen
        assert [answer.source for answer in chat.app.query(AnswerText)] == ["It"]


@pytest.mark.parametrize("turn", [[Thinking("hm")], [Thinking("hm"), Answer("\n \n")], []])
async def test_a_turn_without_an_answer_says_so(turn: list[Any]) -> None:
    async with run_chat(turn, [Answer("It")]) as chat:
        await chat.type("x")
        await chat.idle()
        assert chat.seen.count("the model ended its turn without an answer") == 1
        await chat.type("y")
        await chat.idle()
        assert chat.seen.count("without an answer") == 1 and "It" in chat.seen


async def test_escape_ends_the_thought_then_the_answer_then_asks() -> None:
    async with run_chat(LONG, WORDY) as chat:
        await chat.type("one")
        await chat.until("thought 2.")
        await chat.press("escape")
        await chat.until("The answer.")
        await chat.idle()
        assert chat.model.generations[0].wishes == ["answer"]
        await chat.type("two")
        await chat.until("word3")
        await chat.press("escape")
        await chat.idle()
        assert chat.model.generations[1].wishes == ["stop"]
        assert "stopped by you" in chat.seen and "word3" in chat.seen
        await chat.press("escape")
        await chat.until("Leave the chat?")
        await chat.press("n")
        await chat.pilot.pause()
        assert "Leave the chat?" not in chat.seen
        await chat.press("ctrl+c", "ctrl+c")
    app = chat.app
    assert app.return_value == 0
    assert app.controller.chat is not None
    assert "word3" in app.controller.chat.session.messages[-1]["content"]


async def test_a_second_press_while_it_thinks_stops_the_turn() -> None:
    never = Pause(threading.Event())
    async with run_chat([Thinking("hm"), never, never, Answer("not heard")]) as chat:
        await chat.type("one")
        await chat.until("│ hm")
        await chat.press("escape")
        await chat.press("escape")
        await chat.idle()
        assert chat.model.generations[0].wishes == ["answer", "stop"]


async def test_ctrl_c_clears_what_is_typed_and_escape_does_not() -> None:
    async with run_chat() as chat:
        await chat.press("a", "b", "escape")
        assert chat.app.input.text == "ab"
        await chat.press("ctrl+c")
        assert chat.app.input.text == "" and "Leave" not in chat.seen


async def test_ctrl_d_leaves() -> None:
    async with run_chat() as chat:
        await chat.press("ctrl+d")
    assert chat.app.return_value == 0


async def test_the_status_shows_what_the_next_turn_will_do_after_a_flag() -> None:
    async with run_chat() as chat:
        await chat.type("/no_think hi")
        assert "│ not thinking │" in chat.status  # the turn may not have begun
        await chat.idle()
        assert "│ not thinking │" in chat.status
        await chat.press("ctrl+t")
        assert "│ thinking │" in chat.status
        await chat.type("again")
        await chat.idle()
        assert [options.thinking for _, options in chat.model.asked] == [None, True]
        await chat.type("/no_think hi")
        await chat.idle()
        await chat.type("/think")
        assert "│ thinking │" in chat.status


async def test_keys_for_mode_and_budget() -> None:
    async with run_chat() as chat:
        await chat.press("ctrl+t")
        assert "not thinking" in chat.status
        await chat.press("ctrl+t")
        assert "│ thinking │" in chat.status
        await chat.press("alt+down")
        assert "budget 2,048" in chat.status  # half of the context is the largest step
        await chat.press("alt+down", "alt+down")
        assert "budget 512" in chat.status
        await chat.press("alt+up")
        assert "budget 1,024" in chat.status
        await chat.press("alt+up", "alt+up")
        assert "budget" not in chat.status


async def test_a_model_that_never_thinks_says_so() -> None:
    async with run_chat(model=FakeModel([], family="instruct")) as chat:
        await chat.press("ctrl+t")
        await chat.until("never thinks")
        await chat.press("alt+up")
        assert "not thinking" in chat.status


async def test_an_error_stands_in_its_place_and_the_turn_is_kept() -> None:
    async with run_chat(
        [Answer("half an answer"), RuntimeError("out of memory")], [Answer("whole")]
    ) as chat:
        await chat.type("one")
        await chat.idle()
        assert "half an answer" in chat.seen
        assert "error: RuntimeError: out of memory" in chat.seen
        await chat.type("two")
        await chat.until("whole")
    app = chat.app
    assert app.controller.chat is not None
    assert app.controller.chat.session.messages[1]["content"] == "half an answer"


async def test_a_message_that_is_refused_comes_back_to_the_input() -> None:
    error = ContextError("the prompt is too long", got="9 tokens", hint="shorten it")
    async with run_chat([error]) as chat:
        await chat.type("far too long")
        await chat.until("hint: shorten it")
        await chat.idle()
        assert chat.app.input.text == "far too long"


async def test_a_context_that_fills_up_says_so_before_it_is_full() -> None:
    def turn(tokens: int) -> list[Any]:
        return [Answer("a"), Done("stop", Stats(prompt_tokens=tokens, answer_tokens=0))]

    async with run_chat(model=FakeModel([turn(79), turn(81)], context=100)) as chat:
        await chat.type("one")
        await chat.idle()
        assert "% full" not in chat.seen
        await chat.type("two")
        await chat.idle()
        assert "the context is 81 % full, 19 tokens are left" in chat.seen


async def test_typing_and_sending_while_the_model_loads() -> None:
    loaded, model = threading.Event(), FakeModel([[Answer("at last")]])

    def load(_name: str, progress: Any) -> FakeModel:
        progress(1, 4)
        assert loaded.wait(60)
        return model

    async with run_chat(load=load) as chat:
        await chat.until("loading fake ██░░░░░░░░ 25 %")
        await chat.type("hello")
        await chat.press("t", "e", "x", "t")
        assert chat.app.input.text == "text" and "› hello" in chat.seen
        loaded.set()
        await chat.until("at last")
        assert chat.seen.count("› hello") == 1


async def test_a_model_that_cannot_be_loaded() -> None:
    models = {"other": FakeModel([[Answer("from the other")]], name="other")}

    def load(name: str, _progress: Any) -> FakeModel:
        if name not in models:
            raise ModelNotFoundError("unknown model", got=name)
        return models[name]

    async with run_chat(load=load) as chat:
        await chat.until("error: unknown model: got fake")
        await chat.until("/model NAME")


async def test_progress_on_the_prompt() -> None:
    async with run_chat([step for n in range(401) for step in (Prefill(n, 400), SLOW)]) as chat:
        await chat.type("one")
        await chat.until(lambda: re.search(r"reading the prompt ██+░+ \d+/400", chat.status))
        await chat.press("escape")
        await chat.idle()


async def test_control_characters_never_reach_the_terminal() -> None:
    async with run_chat(
        [Thinking("a\x1b[2Jb"), Answer("c\x1b]0;owned\x07\x9b31m \u202edrow\u2066")]
    ) as chat:
        await chat.type("go")
        await chat.idle()
        await chat.press("ctrl+r")
        text = "".join(w.source for w in chat.app.query(AnswerText))
        text += "".join(w.text.source for w in chat.app.query(Thought)) + chat.seen
        assert not {c for c in text if (ord(c) < 32 and c != "\n") or 127 <= ord(c) < 160}
        assert not set(text) & set("\u202e\u2066")
        assert "c]0;owned31m" in chat.seen


async def test_copying_the_answer_and_its_code() -> None:
    markdown = "Do:\n\n```sh\nls\n```\n\nor\n\n```sh\npwd\n```\n"
    async with run_chat([Answer(markdown)], [Answer("second")]) as chat:
        await chat.press("ctrl+o")  # nothing yet
        await chat.type("how?")
        await chat.idle()
        copied = []
        for _ in range(4):
            await chat.press("ctrl+o")
            copied.append(chat.app.clipboard)
        assert copied == [markdown, "ls\n", "pwd\n", markdown]
        assert "copied the answer" in chat.status
        await chat.press("ctrl+o")
        await chat.type("and now?")
        await chat.until("second")
        await chat.idle()
        await chat.press("ctrl+o")
        assert chat.app.clipboard == "second"


async def test_wide_and_right_to_left_text_at_every_width() -> None:
    async with run_chat(
        [Thinking("想想" * 40), Answer("你好 🌍 é\n\nمرحبا بالعالم " + "宽" * 100)]
    ) as chat:
        await chat.type("你好 🌍 שלום")
        await chat.idle()
        for width in (79, 41, 40, 23, 80):
            await chat.pilot.resize_terminal(width, 24)
            await chat.until(lambda width=width: max(map(cell_len, chat.rows)) == width)
            await chat.pilot.pause()
            assert max(map(cell_len, chat.rows)) == width  # the rule above the input
        assert "你好 🌍 é" in chat.seen and "مرحبا" in chat.seen


async def test_without_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with run_chat(
        [Thinking("hm"), Answer("# It\n\n`is` red\n\n```python\nx = 1\n```\n"), 0.1]
    ) as chat:
        await chat.type("x")
        await chat.idle()
        for letter, style in chat.styled():
            assert style.color is None or style.color.is_default, letter
