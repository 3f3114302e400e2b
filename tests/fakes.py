"""A model whose turns are written down beforehand, so that interfaces are tested without MLX.

A script is a list of turns. A turn is a list of events; among them may stand a number (seconds to
wait, as a computation would), a `Pause` (waits for the test), an exception (raised there), or a
`Prefill` (reported as progress).

    model = FakeModel([[Thinking("hm"), Answer("4")]])
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, Self

from qwen3_mlx.chat import journal
from qwen3_mlx.errors import OptionError, SessionError
from qwen3_mlx.events import Answer, Done, Event, Stats, Thinking
from qwen3_mlx.options import Family, GenerationOptions

CUT_TEXT = "\n(told to answer now)\n"


@dataclass(frozen=True)
class Prefill:
    """Progress on the prompt."""

    done: int
    total: int


@dataclass(frozen=True)
class Pause:
    """Waits until the test goes on, or the person interrupts."""

    go_on: threading.Event


Step = Event | float | BaseException | Prefill | Pause
Turn = Sequence[Step]


class FakeGeneration:
    """A turn that follows its script, and hears interrupts as a real one does."""

    def __init__(self, turn: Turn, on_progress: Any = None) -> None:
        self._steps = self._play(turn, on_progress)
        self.wishes: list[str] = []
        self._wish: str | None = None

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        return next(self._steps)

    def interrupt(self, kind: Literal["answer", "stop"] = "stop") -> None:
        self.wishes.append(kind)
        if self._wish != "stop":
            self._wish = kind

    def close(self) -> None:
        self._steps.close()

    def _play(self, turn: Turn, on_progress: Any) -> Iterator[Event]:
        thinking = answering = 0
        cut: Literal["", "user"] = ""
        for step in turn:
            if isinstance(step, BaseException):
                raise step
            if isinstance(step, Prefill):
                on_progress(step.done, step.total)
            elif isinstance(step, int | float) and (self._wish is None or answering):
                self._wait(step)
            elif isinstance(step, Pause):
                self._wait(60, step.go_on)
            if self._wish == "stop":
                yield Done("interrupted", _stats(thinking, answering, cut))
                return
            if self._wish == "answer" and isinstance(step, Thinking):
                if not cut:
                    yield Thinking(CUT_TEXT)
                cut = "user"
                continue
            if isinstance(step, Done):
                yield step
                return
            if isinstance(step, Thinking | Answer):
                thinking += isinstance(step, Thinking)
                answering += isinstance(step, Answer)
            if not isinstance(step, int | float | Prefill | Pause):
                yield step
        yield Done("stop", _stats(thinking, answering, cut))

    def _wait(self, seconds: float, go_on: threading.Event | None = None) -> None:
        """Wait, but no longer than until an interrupt changes something, or `go_on` is set."""
        before, until = self._wish, time.monotonic() + seconds
        while time.monotonic() < until and self._wish == before:
            if go_on is not None and go_on.is_set():
                return
            time.sleep(0.005)


def _stats(thinking: int, answering: int, cut: Literal["", "user"]) -> Stats:
    return Stats(
        prompt_tokens=10,
        cached_tokens=4,
        thinking_tokens=thinking,
        answer_tokens=answering,
        thinking_cut=cut,
        ttft_s=0.25,
        prefill_tps=40.0,
        decode_tps=20.0,
        peak_memory_bytes=1_500_000_000,
    )


def _template(messages: Sequence[dict[str, Any]], *_more: Any, **_options: Any) -> list[str]:
    """A word is a token; the thought of the last message is dropped only behind another."""
    last = messages[-1].get("reasoning_content") or ""
    return [word for message in messages for word in str(message["content"]).split()] + last.split()


class FakeModel:
    """What the interfaces use of `qwen3_mlx.Qwen3`."""

    def __init__(
        self,
        script: Sequence[Turn],
        *,
        name: str = "fake",
        family: Family = "hybrid",
        context: int = 4096,
    ) -> None:
        self.name, self.family = name, family
        self.config = SimpleNamespace(context=context, rope=SimpleNamespace(scaling=None))
        self.template = SimpleNamespace(encode=_template, thinks_by_default=True)
        self.tokenizer = SimpleNamespace(im_start=None)
        self._script = iter(script)
        self.asked: list[tuple[list[dict[str, Any]], GenerationOptions]] = []
        self.generations: list[FakeGeneration] = []
        self.warmed: list[int] = []

    def stream(
        self,
        prompt: str | Sequence[dict[str, Any]],
        options: GenerationOptions | None = None,
        *,
        tools: Any = None,
        on_progress: Any = None,
        **overrides: Any,
    ) -> FakeGeneration:
        self.offered = tools
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        asked = (options or GenerationOptions()).override(overrides)
        self.asked.append(([dict(message) for message in messages], asked))
        turn = next(self._script, [Answer("(the script is over)")])
        self.generations.append(FakeGeneration(turn, on_progress))
        return self.generations[-1]

    def session(
        self, system: str | None = None, options: GenerationOptions | None = None
    ) -> FakeSession:
        return FakeSession(self, system, options)


class FakeSession:
    """What the interfaces use of `qwen3_mlx.ChatSession`."""

    def __init__(
        self,
        model: FakeModel,
        system: str | None = None,
        options: GenerationOptions | None = None,
    ) -> None:
        self.model, self.options = model, options or GenerationOptions()
        self.messages: list[dict[str, Any]] = []
        self.last_stats: Stats | None = None
        self.system = system

    @property
    def system(self) -> str | None:
        first = self.messages[0] if self.messages else {}
        return first["content"] if first.get("role") == "system" else None

    @system.setter
    def system(self, text: str | None) -> None:
        if self.system is not None:
            del self.messages[0]
        if text:
            self.messages.insert(0, {"role": "system", "content": text})

    def send(self, text: str, *, on_progress: Any = None) -> FakeGeneration:
        self.messages.append({"role": "user", "content": text})
        return self._turn(on_progress)

    def retry(self, *, on_progress: Any = None) -> FakeGeneration:
        while self.messages and self.messages[-1]["role"] != "user":
            self.messages.pop()
        if not self.messages:
            raise OptionError("nothing to retry", hint="send a message first")
        return self._turn(on_progress)

    def _turn(self, on_progress: Any) -> FakeGeneration:
        generation = self.model.stream(self.messages, self.options, on_progress=on_progress)
        generation._steps = self._record(generation._steps)
        return generation

    def _record(self, events: Iterator[Event]) -> Iterator[Event]:
        said = {"role": "assistant", "content": "", "reasoning_content": ""}
        try:
            for event in events:
                if isinstance(event, Thinking):
                    said["reasoning_content"] += event.text
                if isinstance(event, Answer):
                    said["content"] += event.text
                if isinstance(event, Done):
                    self.last_stats = event.stats
                yield event
        finally:
            self.messages.append(said)

    def warm_in_background(self) -> None:
        self.model.warmed.append(len(self.messages))

    def restore_prompt(self, _store: object) -> str:
        return ""

    def save_prompt(self) -> None:
        pass

    def clear(self) -> None:
        self.messages = self.messages[: self.system is not None]
        self.last_stats = None

    def save(self, path: Path) -> None:
        if path.name == "full.json":
            raise SessionError(f"the conversation can't be saved to {path}", got="No space left")
        journal.save(path, self.model.name, self.options, self.messages)

    @classmethod
    def load(cls, path: Path, model: FakeModel) -> Self:
        saved = journal.read(path)
        session = cls(model, options=GenerationOptions(**saved.options))
        session.messages = saved.messages
        return session
