"""What runs in the terminal of `benchmarks.tui` and `benchmarks.painting`.

python -m benchmarks.tui_programs chat|by-turns|decode|now|long [argument ...]
"""

from __future__ import annotations

import json
import os
import random
import statistics
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.answers import LONG
from qwen3_mlx.cli.tui import app
from qwen3_mlx.cli.tui.chat_setup import ChatSetup
from qwen3_mlx.cli.tui.turn_view import TurnView
from qwen3_mlx.cli.tui.worker import Begin, News
from qwen3_mlx.events import Answer, Event, Stats, Thinking

PROMPTS = [
    f"What is {a} * {b}?"
    for a, b in ((517, 23), (348, 19), (931, 77), (264, 58), (592, 35), (713, 46), (825, 64))
]
"""Each is thought about for some 250 tokens."""
LONG_TOKENS, LONG_RATE = 20_000, 1000


def report(stats: Stats, **more: Any) -> None:
    """Say how a turn went, in a line of the file $REPORT."""
    tokens = stats.thinking_tokens + stats.answer_tokens
    line = json.dumps({"tps": stats.decode_tps, "tokens": tokens, **more})
    with Path(os.environ["REPORT"]).open("a", encoding="utf-8") as file:
        file.write(line + "\n")


class Chat(app.Chat):
    """Reports every turn, when it is painted to its end."""

    def start_turn(self, begin: Begin, message: str) -> TurnView:
        """Run a turn."""
        self._cpu = time.thread_time()
        return super().start_turn(begin, message)

    def paint_news(self) -> None:
        """Paint, and report a turn that is painted to its end."""
        turn = self.controller.turn
        super().paint_news()
        if turn is not None and self.controller.turn is not turn:
            self.call_after_refresh(self.report_turn, turn)

    def report_turn(self, view: TurnView) -> None:
        """Report what the turn said, its speed, and the interface's processor time."""
        assert view.done is not None
        answer = view.answer.source if view.answer else ""
        thought = view.thought.text.source if view.thought else ""
        report(
            view.done.stats,
            thought=thought,
            answer=answer,
            interface_cpu=time.thread_time() - self._cpu,
        )


class ByTurns(Chat):
    """Paints one of each two turns, by lot; the other one is generated, and nothing is shown of it.

    Reports which it was.
    """

    def __init__(self, start: ChatSetup) -> None:
        super().__init__(start)
        self._painted, self._lot = True, list[bool]()
        put = self.inbox.put

        def some(news: News) -> None:
            if self._painted or not isinstance(news, Thinking | Answer):
                put(news)

        self.inbox.put = some  # type: ignore[method-assign]

    def start_turn(self, begin: Begin, message: str) -> TurnView:
        """Run a turn, painted or not."""
        self._lot = self._lot or random.sample((True, False), 2)
        self._painted = self._lot.pop()
        return super().start_turn(begin, message)

    def report_turn(self, view: TurnView) -> None:
        """Report the turn's speed, and whether it was painted."""
        assert view.done is not None
        report(view.done.stats, painted=self._painted)


def chat(arguments: list[str], kind: type[Chat] = Chat) -> None:
    """The chat as the command begins it."""
    from qwen3_mlx.cli import main

    app.Chat = kind  # type: ignore[misc]
    sys.argv[1:] = ["chat", *arguments]
    main()


def decode() -> None:
    """Answer what comes in lines, and draw nothing."""
    from qwen3_mlx import Done, load

    session = load("demo").session(seed=1)
    print("ready", flush=True)
    for prompt in sys.stdin:
        for event in session.send(prompt.strip()):
            if isinstance(event, Done):
                report(event.stats)


def play(kind: str) -> None:
    """The chat with 20,000 tokens of an answer, a thousand a second."""
    from qwen3_mlx.options import GenerationOptions
    from tests.fakes import FakeModel

    def script() -> Iterator[Event]:
        began = time.perf_counter()
        for number, text in zip(range(LONG_TOKENS), LONG[kind](), strict=False):
            time.sleep(max(began + number / LONG_RATE - time.perf_counter(), 0))
            yield Answer(text)
        yield Answer("\n```\n\nTHE END")

    model: Any = FakeModel([])
    model._script = iter([script()])
    app.Chat(ChatSetup("demo", lambda _name, _progress: model, GenerationOptions())).run()


def now() -> None:
    """Print what "answer now" takes in the engine, and what it may take."""
    from qwen3_mlx import load
    from qwen3_mlx.engine.prefill import prefill
    from qwen3_mlx.options.thinking_budget import STOP_TEXT

    model = load("demo")
    stop = model.tokenizer.encode(STOP_TEXT)
    for number, prompt in enumerate(["What is 12 * 34?", *PROMPTS]):
        session = model.session(seed=1)
        turn, times = session.send(prompt), [time.perf_counter()]
        for event in turn:
            times.append(time.perf_counter())
            if isinstance(event, Thinking) and len(times) > 40:
                break
        step = statistics.median(b - a for a, b in pairwise(times[1:]))
        pressed = time.perf_counter()
        turn.interrupt("answer")
        next(event for event in turn if isinstance(event, Answer))
        took = time.perf_counter() - pressed
        turn.close()
        cached = len(session.cache.tokens)
        began = time.perf_counter()
        logits = prefill(model.network, stop, session.cache, chunk=2048)
        assert logits is not None
        logits.tolist()
        bound = time.perf_counter() - began + 2 * step
        assert len(session.cache.tokens) == cached + len(stop)
        if number:  # the first one compiles
            print(f"took {took:.5f} of {bound:.5f}", flush=True)
    print("done", flush=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["chat", *arguments]:
            chat(arguments)
        case ["by-turns", *arguments]:
            chat(arguments, ByTurns)
        case ["decode"]:
            decode()
        case ["now"]:
            now()
        case ["long", kind]:
            play(kind)
