"""The full-screen chat: what a turn looks like, and what every key does to it."""

from __future__ import annotations

import re
import threading
from typing import Any

import pytest

from qwen3_mlx.cli.tui.answer import Answer as AnswerText
from qwen3_mlx.cli.tui.thought import Thought
from qwen3_mlx.errors import ContextError, ModelNotFoundError
from qwen3_mlx.events import Answer, Done, Stats, Thinking
from tests.cli.tui.pilot import Seat, sit
from tests.fakes import FakeModel, Hold, Prefill

SLOW = 0.05
LONG = [step for n in range(2000) for step in (Thinking(f"thought {n}. "), SLOW)] + [
    Answer("The answer.")
]
WORDY = [step for n in range(2000) for step in (Answer(f"word{n} "), SLOW)]


def test_a_turn_is_a_folded_thought_and_an_answer_in_markdown() -> None:
    async def test(seat: Seat) -> None:
        await seat.type("What is 2 + 2?")
        await seat.idle()
        assert "› What is 2 + 2?" in seat.seen
        assert "▸ thought 1 tokens" in seat.seen and "hm, two" not in seat.seen
        assert "It is 4." in seat.seen and "**" not in seat.seen
        assert "20 tok/s" in seat.status and "1.50 GB" in seat.status
        assert "11/4.1k" in seat.status  # prompt and answer; the thought does not stay
        await seat.press("ctrl+r")
        await seat.until("│ hm, two")

    sit(test, [Thinking("hm, two"), Answer("It is **4**.")])


def test_the_thought_streams_with_its_gauge_and_folds_when_the_answer_starts() -> None:
    async def test(seat: Seat) -> None:
        await seat.type("/budget 1024")
        await seat.type("think")
        await seat.until("thought 9.")
        assert "│ thought 0. thought 1." in seat.seen
        assert re.search(r"▾ thinking \d+/1,024 · ", seat.seen)
        await seat.until("thinking ░░░░░░░░░░")
        await seat.press("escape")
        await seat.idle()
        assert "▸ thought" in seat.seen and "✂ cut by you" in seat.seen
        assert "The answer." in seat.seen

    sit(test, LONG)


@pytest.mark.parametrize(("show", "live", "after"), [("always", 1, 1), ("never", 0, 0)])
def test_show_thinking(show: str, live: bool, after: bool) -> None:
    async def test(seat: Seat) -> None:
        await seat.type("think")
        await seat.until("▾ thinking" if show == "always" else "▸ thinking")
        await seat.until(lambda: re.search(r"thinking \d{2}", seat.status))
        assert ("thought 1." in seat.seen) is bool(live)
        await seat.press("ctrl+c")
        await seat.idle()
        assert ("thought 1." in seat.seen) is bool(after)

    sit(test, LONG, show_thinking=show)


def test_the_mark_of_a_cut_by_the_budget() -> None:
    stats, go_on = Stats(thinking_tokens=2, thinking_cut="budget"), threading.Event()

    async def test(seat: Seat) -> None:
        await seat.type("/budget 2")
        await seat.type("x")
        await seat.until("▾ thinking 2/2")  # what it was told to stop with isn't counted
        go_on.set()
        await seat.idle()
        assert "thought 2/2 tokens" in seat.seen and "✂ cut by the budget" in seat.seen

    sit(
        test,
        [
            Thinking("a"),
            Thinking("b"),
            Thinking("stop"),
            Hold(go_on),
            Answer("c"),
            Done("stop", stats),
        ],
    )


def test_the_counts_of_the_engine_hold_and_empty_lines_before_the_answer_go() -> None:
    async def test(seat: Seat) -> None:
        await seat.type("x")
        await seat.idle()
        assert "▸ thought 7 tokens" in seat.seen
        assert [answer.source for answer in seat.app.query(AnswerText)] == ["It"]

    stats = Stats(thinking_tokens=7)
    sit(test, [Thinking("hm"), Answer("\n"), Answer("\nIt"), Done("stop", stats)])


def test_escape_ends_the_thought_then_the_answer_then_asks() -> None:
    async def test(seat: Seat) -> None:
        await seat.type("one")
        await seat.until("thought 2.")
        await seat.press("escape")
        await seat.until("The answer.")
        await seat.idle()
        assert seat.model.generations[0].wishes == ["answer"]
        await seat.type("two")
        await seat.until("word3")
        await seat.press("escape")
        await seat.idle()
        assert seat.model.generations[1].wishes == ["stop"]
        assert "stopped by you" in seat.seen and "word3" in seat.seen
        await seat.press("escape")
        await seat.until("Leave the chat?")
        await seat.press("n")
        await seat.pilot.pause()
        assert "Leave the chat?" not in seat.seen
        await seat.press("ctrl+c", "ctrl+c")

    app = sit(test, LONG, WORDY)
    assert app.return_value == 0
    assert app.controller.chat is not None
    assert "word3" in app.controller.chat.session.messages[-1]["content"]


def test_a_second_press_while_it_thinks_stops_the_turn() -> None:
    async def test(seat: Seat) -> None:
        await seat.type("one")
        await seat.until("│ hm")
        await seat.press("escape")
        await seat.press("escape")
        await seat.idle()
        assert seat.model.generations[0].wishes == ["answer", "stop"]

    never = Hold(threading.Event())
    sit(test, [Thinking("hm"), never, never, Answer("not heard")])


def test_ctrl_c_clears_what_is_typed_and_escape_does_not() -> None:
    async def test(seat: Seat) -> None:
        await seat.press("a", "b", "escape")
        assert seat.app.input.text == "ab"
        await seat.press("ctrl+c")
        assert seat.app.input.text == "" and "Leave" not in seat.seen

    sit(test)


def test_ctrl_d_leaves() -> None:
    async def test(seat: Seat) -> None:
        await seat.press("ctrl+d")

    assert sit(test).return_value == 0


def test_the_status_shows_what_the_next_turn_will_do_after_a_flag() -> None:
    async def test(seat: Seat) -> None:
        await seat.type("/no_think hi")
        assert "│ not thinking │" in seat.status  # the turn may not have begun
        await seat.idle()
        assert "│ not thinking │" in seat.status
        await seat.press("ctrl+t")
        assert "│ thinking │" in seat.status
        await seat.type("again")
        await seat.idle()
        assert [options.thinking for _, options in seat.model.asked] == [None, True]
        await seat.type("/no_think hi")
        await seat.idle()
        await seat.type("/think")
        assert "│ thinking │" in seat.status

    sit(test)


def test_keys_for_mode_and_budget() -> None:
    async def test(seat: Seat) -> None:
        await seat.press("ctrl+t")
        assert "not thinking" in seat.status
        await seat.press("ctrl+t")
        assert "│ thinking │" in seat.status
        await seat.press("alt+down")
        assert "budget 2,048" in seat.status  # half of the context is the largest step
        await seat.press("alt+down", "alt+down")
        assert "budget 512" in seat.status
        await seat.press("alt+up")
        assert "budget 1,024" in seat.status
        await seat.press("alt+up", "alt+up")
        assert "budget" not in seat.status

    sit(test)


def test_a_model_that_never_thinks_says_so() -> None:
    async def test(seat: Seat) -> None:
        await seat.press("ctrl+t")
        await seat.until("never thinks")
        await seat.press("alt+up")
        assert "not thinking" in seat.status

    sit(test, model=FakeModel([], family="instruct"))


def test_an_error_stands_in_its_place_and_the_turn_is_kept() -> None:
    async def test(seat: Seat) -> None:
        await seat.type("one")
        await seat.idle()
        assert "half an answer" in seat.seen
        assert "error: RuntimeError: out of memory" in seat.seen
        await seat.type("two")
        await seat.until("whole")

    app = sit(test, [Answer("half an answer"), RuntimeError("out of memory")], [Answer("whole")])
    assert app.controller.chat is not None
    assert app.controller.chat.session.messages[1]["content"] == "half an answer"


def test_a_message_that_is_refused_comes_back_to_the_input() -> None:
    error = ContextError("the prompt is too long", got="9 tokens", hint="shorten it")

    async def test(seat: Seat) -> None:
        await seat.type("far too long")
        await seat.until("hint: shorten it")
        await seat.idle()
        assert seat.app.input.text == "far too long"

    sit(test, [error])


def test_a_context_that_fills_up_says_so_before_it_is_full() -> None:
    def turn(tokens: int) -> list[Any]:
        return [Answer("a"), Done("stop", Stats(prompt_tokens=tokens, answer_tokens=0))]

    async def test(seat: Seat) -> None:
        await seat.type("one")
        await seat.idle()
        assert "% full" not in seat.seen
        await seat.type("two")
        await seat.idle()
        assert "the context is 81 % full, 19 tokens are left" in seat.seen

    sit(test, model=FakeModel([turn(79), turn(81)], context=100))


def test_typing_and_sending_while_the_model_loads() -> None:
    loaded, model = threading.Event(), FakeModel([[Answer("at last")]])

    def load(_name: str, progress: Any) -> FakeModel:
        progress(1, 4)
        assert loaded.wait(60)
        return model

    async def test(seat: Seat) -> None:
        await seat.until("loading fake ██░░░░░░░░ 25 %")
        await seat.type("hello")
        await seat.press("t", "e", "x", "t")
        assert seat.app.input.text == "text" and "› hello" in seat.seen
        loaded.set()
        await seat.until("at last")
        assert seat.seen.count("› hello") == 1

    sit(test, load=load)


def test_a_model_that_cannot_be_loaded() -> None:
    models = {"other": FakeModel([[Answer("from the other")]], name="other")}

    def load(name: str, _progress: Any) -> FakeModel:
        if name not in models:
            raise ModelNotFoundError("unknown model", got=name)
        return models[name]

    async def test(seat: Seat) -> None:
        await seat.until("error: unknown model: got fake")
        await seat.until("/model NAME")

    sit(test, load=load)


def test_progress_on_the_prompt() -> None:
    async def test(seat: Seat) -> None:
        await seat.type("one")
        await seat.until(lambda: re.search(r"reading the prompt ██+░+ \d+/400", seat.status))
        await seat.press("escape")
        await seat.idle()

    sit(test, [step for n in range(401) for step in (Prefill(n, 400), SLOW)])


def test_control_characters_never_reach_the_terminal() -> None:
    async def test(seat: Seat) -> None:
        await seat.type("go")
        await seat.idle()
        await seat.press("ctrl+r")
        text = "".join(w.source for w in seat.app.query(AnswerText))
        text += "".join(w.text.source for w in seat.app.query(Thought)) + seat.seen
        assert not {c for c in text if (ord(c) < 32 and c != "\n") or 127 <= ord(c) < 160}
        assert not set(text) & set("\u202e\u2066")
        assert "c]0;owned31m" in seat.seen

    sit(test, [Thinking("a\x1b[2Jb"), Answer("c\x1b]0;owned\x07\x9b31m \u202edrow\u2066")])


def test_copying_the_answer_and_its_code() -> None:
    markdown = "Do:\n\n```sh\nls\n```\n\nor\n\n```sh\npwd\n```\n"

    async def test(seat: Seat) -> None:
        await seat.press("ctrl+o")  # nothing yet
        await seat.type("how?")
        await seat.idle()
        copied = []
        for _ in range(4):
            await seat.press("ctrl+o")
            copied.append(seat.app.clipboard)
        assert copied == [markdown, "ls\n", "pwd\n", markdown]
        assert "copied the answer" in seat.status
        await seat.press("ctrl+o")
        await seat.type("and now?")
        await seat.until("second")
        await seat.idle()
        await seat.press("ctrl+o")
        assert seat.app.clipboard == "second"

    sit(test, [Answer(markdown)], [Answer("second")])


def test_wide_and_right_to_left_text_at_every_width() -> None:
    async def test(seat: Seat) -> None:
        await seat.type("你好 🌍 שלום")
        await seat.idle()

        def widths() -> set[int]:
            return {strip.cell_length for strip in seat.app.screen._compositor.render_strips()}

        for width in (79, 41, 40, 23, 80):
            await seat.pilot.resize_terminal(width, 24)
            await seat.until(lambda width=width: widths() == {width})
            await seat.pilot.pause()
            assert widths() == {width}
        assert "你好 🌍 é" in seat.seen and "مرحبا" in seat.seen

    sit(test, [Thinking("想想" * 40), Answer("你好 🌍 é\n\nمرحبا بالعالم " + "宽" * 100)])


def test_without_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    async def test(seat: Seat) -> None:
        await seat.type("x")
        await seat.idle()
        for strip in seat.app.screen._compositor.render_strips():
            filtered = strip
            for line_filter in seat.app._filters:
                filtered = filtered.apply_filter(line_filter, seat.app.screen.styles.background)
            for segment in filtered:
                color = segment.style.color if segment.style else None
                assert color is None or color.is_default, segment

    sit(test, [Thinking("hm"), Answer("# It\n\n`is` red\n\n```python\nx = 1\n```\n"), 0.1])
