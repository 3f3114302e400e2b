"""Conversations with tools, as the chat template writes them, in pieces to learn and to read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from random import Random
from typing import Any

from training.data.chat import SYSTEMS, Mode, flagged
from training.data.exchange import Persona
from training.data.tools.kinds import Tool
from training.data.tools.turns import Call, Step, ToolTurn, any_turn, toolbox

MODES: tuple[Mode, ...] = ("thinking", "cut", "hard", "soft")
_MODE_SHARES = (40, 14, 32, 14)
_COUNTS, _COUNT_SHARES = (1, 2, 3, 4), (22, 30, 28, 20)
_EMPTY = "<think>\n\n</think>\n\n"
_ABOVE = "# Tools\n\nThese functions can be called, each described in JSON:\n<tools>"
_BELOW = (
    "\n</tools>\n\nTo call one, write its name and its arguments as JSON between the tags:\n"
    '<tool_call>\n{"name": <name>, "arguments": <arguments>}\n</tool_call>'
)

READ, LEARN, CUT = 0, 1, 2
Piece = tuple[str, int]
"""A text that tokenises independently of its neighbours, and what it is for: to be read, to be
learnt, or a thought to be learnt up to a cut."""


@dataclass(frozen=True, slots=True)
class ToolTalk:
    """Turns with the same tools; the model learns the last one, up to its step `last`."""

    system: str
    tools: Sequence[Tool]
    turns: Sequence[ToolTurn]
    mode: Mode
    last: int

    @property
    def thinks(self) -> bool:
        """Whether the last turn's steps hold thoughts."""
        return self.mode in ("thinking", "cut")


def converse_with_tools(rng: Random, persona: Persona, long: bool = False) -> ToolTalk:
    """A conversation of 1 to 3 turns (`long`: 5 to 12) with one to four tools."""
    tools = toolbox(rng, rng.choices(_COUNTS, _COUNT_SHARES)[0])
    count = rng.randint(5, 12) if long else rng.choices((1, 2, 3), (50, 30, 20))[0]
    turns = [any_turn(rng, tools, persona) for _ in range(count)]
    mode = rng.choices(MODES, _MODE_SHARES)[0]
    steps = len(turns[-1].steps)
    last = steps - 1 if mode == "thinking" else rng.randrange(steps)
    system = rng.choice(SYSTEMS) if rng.random() < 0.2 else ""
    if mode == "soft" or (mode == "thinking" and rng.random() < 0.04):
        flag = "/no_think" if mode == "soft" else "/think"
        turn = turns[-1]
        turns[-1] = ToolTurn(flagged(rng, turn.question, flag), turn.steps, turn.problems)
    return ToolTalk(system, tools, turns, mode, last)


def _call(call: Call) -> str:
    return f'\n{{"name": "{call.tool.name}", "arguments": {call.arguments}}}\n</tool_call>'


def _said(step: Step) -> str:
    """What a step says behind its thought."""
    return "\n".join(f"<tool_call>{_call(c)}" for c in step.calls) or step.answer


def _read(step: Step) -> Iterator[Piece]:
    """A step that is past: its calls are still learnt, but for the mark that opens them."""
    yield "<|im_start|>assistant\n", READ
    if step.calls:
        yield "<tool_call>", READ
        yield f"{_said(step).removeprefix('<tool_call>')}<|im_end|>", LEARN
        yield "\n", READ
        yield results(step), READ
    else:
        yield f"{step.answer}<|im_end|>\n", READ


def results(step: Step) -> str:
    """The turn in which the results come back."""
    told = "".join(f"\n<tool_response>\n{c.result}\n</tool_response>" for c in step.calls)
    return f"<|im_start|>user{told}<|im_end|>\n"


def system_turn(system: str, tools: Sequence[Tool]) -> str:
    told = f"{system}\n\n" if system else ""
    listed = "".join(f"\n{tool.text}" for tool in tools)
    return f"<|im_start|>system\n{told}{_ABOVE}{listed}{_BELOW}<|im_end|>\n"


def _thought(step: Step) -> Iterator[Piece]:
    yield "<|im_start|>assistant\n", READ
    yield f"<think>\n{step.thought}\n</think>\n\n{_said(step)}<|im_end|>", LEARN
    yield "\n", READ
    yield results(step), READ


def _learnt(step: Step, mode: Mode) -> Iterator[Piece]:
    """The step that the sample ends with."""
    yield "<|im_start|>assistant\n", READ
    if mode == "cut":
        yield f"<think>\n{step.thought}\n", CUT
    elif mode == "thinking":
        yield f"<think>\n{step.thought}\n</think>\n\n", LEARN
    else:
        yield _EMPTY, READ if mode == "hard" else LEARN
    yield f"{_said(step)}<|im_end|>", LEARN


def pieces(talk: ToolTalk) -> list[Piece]:
    """The whole conversation; neighbours with the same use are one piece."""
    found = [(system_turn(talk.system, talk.tools), READ)]
    for turn in talk.turns:
        found.append((f"<|im_start|>user\n{turn.question}<|im_end|>\n", READ))
        if turn is not talk.turns[-1]:
            for step in turn.steps:
                found += _read(step)
    steps = talk.turns[-1].steps
    for step in steps[: talk.last]:
        found += _thought(step) if talk.thinks else _read(step)
    found += _learnt(steps[talk.last], talk.mode)
    grouped = groupby(found, key=lambda piece: piece[1])
    return [("".join(text for text, _ in same), use) for use, same in grouped]


def messages(talk: ToolTalk) -> list[dict[str, Any]]:
    """The messages that the template renders before the step to be learnt."""
    told: list[dict[str, Any]] = []
    if talk.system:
        told.append({"role": "system", "content": talk.system})
    for turn in talk.turns:
        final = turn is talk.turns[-1]
        told.append({"role": "user", "content": turn.question})
        for step in turn.steps[: talk.last] if final else turn.steps:
            told += _messages(step, talk.thinks and final)
    return told


def _messages(step: Step, thinks: bool) -> Iterator[dict[str, Any]]:
    said: dict[str, Any] = {"role": "assistant", "content": step.answer}
    if thinks:
        said["reasoning_content"] = step.thought
    if step.calls:
        said["tool_calls"] = [
            {"type": "function", "function": {"name": c.tool.name, "arguments": c.arguments}}
            for c in step.calls
        ]
    yield said
    for call in step.calls:
        yield {"role": "tool", "content": call.result}
