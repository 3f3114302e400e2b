"""One question being answered: what was said so far, and whether it is still right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from benchmarks.call_check import Call, Question, Step, check


@dataclass(frozen=True, slots=True)
class Said:
    """What a model said in one step."""

    calls: Sequence[Call]
    answer: str = ""
    thought: str = ""
    fault: str = ""
    """Why it is wrong whatever it says: it came to no end, or a call can't be read."""

    def as_message(self) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": self.answer}
        if self.thought:
            message["reasoning_content"] = self.thought
        if self.calls:
            message["tool_calls"] = [
                {"type": "function", "function": {"name": name, "arguments": arguments}}
                for name, arguments in self.calls
            ]
        return message


@dataclass
class Sitting:
    """A question, asked turn by turn; results come back as the question has them."""

    question: Question
    messages: list[dict[str, Any]] = field(default_factory=list)
    turn: int = 0
    step: int = 0
    over: bool = False
    wrong: str = ""
    """Why the question is not answered right, or ""."""

    def __post_init__(self) -> None:
        if self.question.system:
            self.messages.append({"role": "system", "content": self.question.system})
        self._ask()

    @property
    def asked(self) -> str:
        """The latest message of the user."""
        return str(next(m["content"] for m in self.messages[::-1] if m["role"] == "user"))

    def _ask(self) -> None:
        content = self.question.turns[self.turn].content
        self.messages.append({"role": "user", "content": content})

    def read(self, said: Said) -> None:
        """Judge a step, and go on to the next step, the next turn, or the end."""
        steps = self.question.turns[self.turn].steps
        step = steps[self.step] if self.step < len(steps) else Step((), ())
        verdict = check(step.calls, said.calls, self.question.tools)
        self.wrong = said.fault or verdict.wrong
        if not self.wrong and not said.calls and not said.answer.strip():
            self.wrong = "no answer"
        if self.wrong or self.question.category != "multi_turn":
            self.over = True
            return
        self.messages.append(said.as_message())
        self.step += 1
        if step.calls:
            told = [step.results[place] for place in verdict.places]
            self.messages += [{"role": "tool", "content": result} for result in told]
            return
        self.turn, self.step = self.turn + 1, 0
        self.over = self.turn == len(self.question.turns)
        if not self.over:
            self._ask()


class Judged(Protocol):
    """A question that was answered: `wrong` says why not right, `asked` what was asked last."""

    @property
    def question(self) -> Any: ...
    @property
    def asked(self) -> str: ...
    @property
    def wrong(self) -> str: ...


def percent(sittings: Sequence[Judged]) -> float:
    """How many of them ended right."""
    return round(100 * sum(not s.wrong for s in sittings) / len(sittings), 1)
