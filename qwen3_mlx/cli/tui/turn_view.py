"""Shows one turn: turns its news into thoughts, answers, tool cards and notes."""

from __future__ import annotations

import json
import time

from qwen3_mlx.cli.settings.settings import ShowThinking
from qwen3_mlx.cli.terminal.progress import Eta
from qwen3_mlx.cli.terminal.render import UNANSWERED
from qwen3_mlx.cli.terminal.screen import describe
from qwen3_mlx.cli.tools import shown
from qwen3_mlx.cli.tui.answer import Answer as AnswerText
from qwen3_mlx.cli.tui.status import bar
from qwen3_mlx.cli.tui.thought import Thought
from qwen3_mlx.cli.tui.tool_card import ToolCard
from qwen3_mlx.cli.tui.transcript import Transcript, UserMessage
from qwen3_mlx.cli.tui.worker import Failed, News, Over, Reading, Running
from qwen3_mlx.events import Answer, Done, Thinking, ToolCall
from qwen3_mlx.tools.events import LoopDone, ToolResult, ToolRun


class TurnView:
    """Shows one turn in the transcript."""

    def __init__(
        self,
        log: Transcript,
        running: Running,
        budget: int | None,
        show: ShowThinking,
        *,
        sent: str = "",
        automatic: bool = False,
    ) -> None:
        self.running, self.sent = running, sent
        self._log, self._budget, self._show, self._automatic = log, budget, show, automatic
        if sent:
            log.add(UserMessage(sent))
        self._thought_before = 0
        self._card: ToolCard | None = None
        self._tool, self._loop_note = "", ""
        self._begin_step()
        self.done: Done | None = None
        self.error: Exception | None = None
        self.over = False
        self._reading, self._eta, self._left = Reading(0, 0), Eta(), ""
        self._tokens, self._first = 0, 0.0

    def _begin_step(self) -> None:
        """Add hidden widgets for a step; a turn with tools has several steps."""
        budget = self._budget and max(self._budget - self._thought_before, 0)
        folded = self._show == "never"
        self._parts = Thought(budget, folded=folded, automatic=self._automatic), AnswerText()
        for part in self._parts:
            part.display = False  # showing a widget while streaming is cheaper than adding one
        self._log.add(*self._parts)
        self.thought: Thought | None = None
        self.answer: AnswerText | None = None

    @property
    def began(self) -> bool:
        """Whether the model has begun to think or answer."""
        return self._tokens > 0

    def take(self, batch: list[News]) -> None:
        """Show a batch of news, joining consecutive pieces of a thought or answer."""
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
                case ToolRun() | ToolResult() | LoopDone():
                    self._think(thought)
                    self._write(answer)
                    self._take_tool(news)
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

    def _take_tool(self, news: ToolRun | ToolResult | LoopDone) -> None:
        match news:
            case ToolRun(call, tool):
                self._end_step()
                self._card, self._tool = ToolCard.of(call, tool), tool.full_name
                self._log.add(self._card)
            case ToolResult():
                if self._card is not None:
                    self._card.end(news)
                else:  # the call was not run
                    self._end_step()
                    self._log.add(ToolCard.of(news.call, news.tool, news))
                self._card, self._tool = None, ""
                self._begin_step()
            case LoopDone(ending) if shown.ENDINGS[ending]:
                self._loop_note = shown.ENDINGS[ending]
                self._log.note(self._loop_note)

    def _end_step(self) -> None:
        """Finish the step's widgets, and remove empty ones."""
        self._end_thought()
        if self.thought is not None:
            self._thought_before += self.thought.tokens
        for part in self._parts:
            if part not in (self.thought, self.answer):
                part.remove()
        if self.answer is not None:
            self.answer.free_spare_rows()

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
        # mypy infers str; the value is a ThinkingCut
        self.thought.end(cut)  # type: ignore[arg-type]
        if self._show == "live":
            self.thought.fold(True)

    def _count(self, tokens: int) -> None:
        self._first = self._first or time.monotonic()
        self._tokens += tokens

    def _end(self) -> None:
        only_step = not self._thought_before
        self._end_step()
        if self.thought is not None:
            self.thought.end()
            if self.done is not None and only_step:
                self.thought.finalize_counts(self.done.stats)
        if self.error is not None:
            self._log.note(f"error: {describe(self.error)}", error=True)
        elif self.done is not None and (note := self._ending_note(self.done)):
            self._log.note(note)

    def _ending_note(self, done: Done) -> str:
        """Why nothing more came; "" for a whole answer, or where the loop has said it."""
        if done.finish_reason != "stop":
            return ENDS[done.finish_reason]
        answered = self.answer is not None and self.answer.source.strip()
        return "" if answered or self._loop_note else UNANSWERED

    @property
    def stopping(self) -> bool:
        """Whether the presses so far end the turn, not only its thought or call."""
        presses = self.running.presses
        if self._tool:
            return presses > 1  # the first one ends the call
        return presses > 1 or (presses == 1 and not self.running.thinking)

    @property
    def thinking(self) -> bool:
        """Whether the model is thinking."""
        return self.thought is not None and self.thought.live

    def status(self) -> str:
        """The current activity, for the status row."""
        if self.stopping:
            return "stopping …"
        if self._tool:
            how = "ending" if self.running.presses else "running"
            return f"{how} {self._tool} (Esc ends {'the turn' if self.running.presses else 'it'})"
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
        """Tokens per second so far; 0 until it can be estimated."""
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
