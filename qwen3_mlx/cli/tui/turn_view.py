"""One turn on the screen: its news become a thought, an answer, and notes."""

from __future__ import annotations

import json
import time

from qwen3_mlx.cli.settings.settings import ShowThinking
from qwen3_mlx.cli.terminal.progress import Eta
from qwen3_mlx.cli.terminal.screen import describe
from qwen3_mlx.cli.tui.answer import Answer as AnswerText
from qwen3_mlx.cli.tui.status import bar
from qwen3_mlx.cli.tui.thought import Thought
from qwen3_mlx.cli.tui.transcript import Transcript, UserMessage
from qwen3_mlx.cli.tui.worker import Failed, News, Over, Reading, Running
from qwen3_mlx.events import Answer, Done, Thinking, ToolCall


class TurnView:
    """Paints a turn into the log."""

    def __init__(
        self,
        log: Transcript,
        running: Running,
        budget: int | None,
        show: ShowThinking,
        *,
        sent: str = "",
    ) -> None:
        self.running, self.sent = running, sent
        self._log, self._budget, self._show = log, budget, show
        self._parts = Thought(budget, folded=show == "never"), AnswerText()
        for part in self._parts:
            part.display = False  # a new part costs more than one that was there, while it streams
        log.add(*([UserMessage(sent)] if sent else []), *self._parts)
        self.thought: Thought | None = None
        self.answer: AnswerText | None = None
        self.done: Done | None = None
        self.error: Exception | None = None
        self.over = False
        self._reading, self._eta, self._left = Reading(0, 0), Eta(), ""
        self._tokens, self._first = 0, 0.0

    @property
    def began(self) -> bool:
        """Whether the model has begun to think or answer."""
        return self._tokens > 0

    def take(self, batch: list[News]) -> None:
        """Paint `news`: all of a thought at once, and all of an answer."""
        thought: list[str] = []
        answer: list[str] = []
        for news in batch:
            match news:
                case Thinking(text):
                    self._write(answer)
                    thought.append(text)
                case Answer(text):
                    self._think(thought)
                    answer.append(text)
                case ToolCall(name, arguments):
                    call = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
                    answer.append(f"\n```json\n{call}\n```\n")
                case Reading():
                    self._reading, self._left = news, self._eta(news.done, news.total)
                case Done():
                    self.done = news
                case Failed(error):
                    self.error = error
                case Over():
                    self.over = True
        self._think(thought)
        self._write(answer)
        if self.over:
            self._end()

    def _think(self, pieces: list[str]) -> None:
        if not pieces:
            return
        self._count(len(pieces))
        if self.thought is None:
            self.thought = self._parts[0]
            self.thought.display = True
        self.thought.append("".join(pieces), len(pieces))
        pieces.clear()

    def _write(self, pieces: list[str]) -> None:
        if not pieces:
            return
        self._count(len(pieces))
        text = "".join(pieces)
        pieces.clear()
        if self.answer is None:
            text = text.lstrip("\n")
            if not text:
                return
            self._end_thought()
            self.answer = self._parts[1]
            self.answer.display = True
        self.answer.append(text)

    def _end_thought(self) -> None:
        if self.thought is None or not self.thought.live:
            return
        over = self.thought.budget is not None and self.thought.tokens >= self.thought.budget
        cut = "user" if self.running.presses else "budget" if over else ""
        # a plain str to mypy, one of ThinkingCut here
        self.thought.end(cut)  # type: ignore[arg-type]
        if self._show == "live":
            self.thought.fold(True)

    def _count(self, tokens: int) -> None:
        self._first = self._first or time.monotonic()
        self._tokens += tokens

    def _end(self) -> None:
        for part in self._parts:
            if part not in (self.thought, self.answer):
                part.remove()
        if self.answer is not None:
            self.answer.free_spare_rows()
        if self.thought is not None:
            self.thought.end()
            if self.done is not None:
                self.thought.finalize_counts(self.done.stats)
        if self.error is not None:
            self._log.note(f"error: {describe(self.error)}", error=True)
        elif self.done is not None and self.done.finish_reason != "stop":
            self._log.note(ENDS[self.done.finish_reason])

    @property
    def stopping(self) -> bool:
        """Whether a press ends the turn, not only its thought."""
        presses = self.running.presses
        return presses > 1 or (presses == 1 and not self.running.thinking)

    @property
    def thinking(self) -> bool:
        """Whether a thought is under way."""
        return self.thought is not None and self.thought.live

    def status(self) -> str:
        """The turn's present step, for the status row."""
        if self.stopping:
            return "stopping …"
        if not self._tokens:
            read = self._reading
            if not read.total:
                return "reading the prompt"
            at = f"{bar(read.done, read.total)} {read.done:,}/{read.total:,}{self._left}"
            return f"reading the prompt {at}"
        if self.thought is not None and self.thought.live:
            gauge = f"{bar(self.thought.tokens, self._budget)} " if self._budget else ""
            return f"thinking {gauge}{self.thought.gauge}"
        return "answering"

    @property
    def speed(self) -> float:
        """Tokens a second so far; 0 before there are enough to say."""
        elapsed = time.monotonic() - self._first
        return (self._tokens - 1) / elapsed if self._tokens > 1 and elapsed > 0.2 else 0.0

    @property
    def tokens(self) -> int:
        """Tokens generated so far."""
        return self._tokens


ENDS = {
    "length": "the answer was cut by max_tokens or the context",
    "interrupted": "stopped by you; what was said is kept",
}
