"""Turns with tools: one call, two at once, two in a row, a failed one, or none that fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from training.data.arithmetic import ADDITION, MULTIPLICATION
from training.data.chat import talk_turn
from training.data.exchange import Persona
from training.data.problem import Problem, Spec, is_held_out
from training.data.tools.errands import ERRANDS
from training.data.tools.kinds import Kind, Tool, Values, tool_of
from training.data.tools.skills import (
    CALCULATOR,
    COMPARE_NUMBERS,
    COUNT_LETTER,
    DAYS_BETWEEN,
    REVERSE_LIST,
    REVERSE_TEXT,
    SKILLS,
    SORT_NUMBERS,
    SORT_WORDS,
    WORD_LENGTH,
    expression,
)

KINDS: Sequence[Kind] = (*SKILLS, *ERRANDS)
_WEIGHTS = tuple(4 if kind is CALCULATOR else 1 for kind in KINDS)
COUNTING = (CALCULATOR, COUNT_LETTER, WORD_LENGTH, DAYS_BETWEEN)
"""Kinds whose result is an integer to go on with."""
_NEAR = (
    {SORT_NUMBERS.name, SORT_WORDS.name, COMPARE_NUMBERS.name, REVERSE_LIST.name},
    {REVERSE_TEXT.name, REVERSE_LIST.name}, {COUNT_LETTER.name, WORD_LENGTH.name},
)  # fmt: skip
"""Kinds of which one could be taken for another: a question for one isn't without a fitting tool
while another is offered."""

_JOINTS = ("{a} {b}", "{a} {b}", "{a} And: {b}", "{a}\n{b}", "1. {a}\n2. {b}", "{a} Also: {b}",
           "Two things: {a} {b}", "{a} Then tell me: {b}", "{a} And another one: {b}")  # fmt: skip
_GO_ON = {
    "mul": ("Then multiply the result by {k}.", "Multiply that by {k}.", "Then times {k}.",
            "And multiply the result by {k}."),
    "add": ("Then add {k} to the result.", "Add {k} to that.", "Then plus {k}.",
            "And add {k} to it."),
    "sub": ("Then subtract {k} from the result.", "Subtract {k} from that.", "Then minus {k}.",
            "And take {k} away from it."),
}  # fmt: skip
_FAMILY_OF = {"mul": MULTIPLICATION, "add": ADDITION, "sub": ADDITION}
_NOT_MINE = (
    "I have no tool for that.", "None of my tools can do that.", "No tool here does that.",
    "That needs a tool that I do not have.", "Sorry, I have no tool for that.",
)  # fmt: skip
_ERRORS = ("time out", "not available", "no connection", "try again later", "internal error",
           "not found", "no result")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Call:
    """One call: what it asks of which tool, and what comes back."""

    tool: Tool
    values: Values
    result: str

    @property
    def arguments(self) -> str:
        return self.tool.arguments(self.values)


@dataclass(frozen=True, slots=True)
class Step:
    """What the model writes at one time: a thought, then calls, or an answer that ends the turn."""

    thought: str
    calls: Sequence[Call] = ()
    answer: str = ""


@dataclass(frozen=True, slots=True)
class ToolTurn:
    """A question and all steps up to the answer."""

    question: str
    steps: Sequence[Step]
    problems: Sequence[Problem] = field(default=())
    """What was drawn for it, for the test of the split."""


def toolbox(rng: Random, count: int, wanted: Sequence[Kind] = ()) -> list[Tool]:
    """`count` tools of different kinds and names in any order, those `wanted` among them."""
    kinds = list(wanted)
    while len(kinds) < count:
        kind = rng.choices(KINDS, _WEIGHTS)[0]
        if kind not in kinds:
            kinds.append(kind)
    tools: list[Tool] = []
    for kind in rng.sample(kinds, len(kinds)):
        tool = tool_of(kind, rng)
        while tool.name in {other.name for other in tools}:
            tool = tool_of(kind, rng)
        tools.append(tool)
    return tools


def _last(rng: Random, calls: Sequence[Call], answer: str) -> Step:
    """The step that reports the results."""
    if len(calls) > 1:
        return Step(rng.choice(("I have both results.", "Both results are there.")), (), answer)
    thoughts = ["I have the result.", "That is the result."]
    if len(calls[0].result) < 30:
        thoughts.append(f"The tool says {calls[0].result}.")
    return Step(rng.choice(thoughts), (), answer)


def _result(rng: Random, tool: Tool, text: str) -> str:
    """A result as functions give it, or marked as a server's."""
    return f"[tools.{tool.name}]\n{text}" if rng.random() < 0.12 else text


def _call(rng: Random, tool: Tool, problem: Problem) -> Call:
    return Call(tool, tool.kind.values(problem.spec), _result(rng, tool, problem.result))


def single(rng: Random, tool: Tool, held_out: bool, failing: float = 0.05) -> ToolTurn:
    """One call and its answer; in the share `failing` an error comes back."""
    problem = tool.kind.problem(rng, held_out)
    name = tool.name
    thought = rng.choice((f"{name} does this.", f"I call {name}.", f"This is a task for {name}."))
    call = _call(rng, tool, problem)
    last = _last(rng, [call], problem.answer)
    if rng.random() < failing:
        error = rng.choice(_ERRORS)
        call = Call(tool, call.values, f"Error: {error}")
        last = Step("The tool failed. I say so.", (), f"{name} failed: {error}.")
    return ToolTurn(problem.question, (Step(thought, [call]), last), [problem])


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text[-1] in ".?!。？؟" else f"{text}."


def parallel(rng: Random, tools: Sequence[Tool], held_out: bool) -> ToolTurn:
    """Two questions at once, for one tool or two."""
    first, second = rng.choice(tools), rng.choice(tools)
    one = first.kind.problem(rng, held_out)
    other = second.kind.problem(rng, held_out)
    while other.spec == one.spec:
        other = second.kind.problem(rng, held_out)
    joint = rng.choice(_JOINTS)
    question = joint.format(a=_sentence(one.question), b=_sentence(other.question))
    calls = [_call(rng, first, one), _call(rng, second, other)]
    thought = f"Two tasks: {first.name} and {second.name}."
    last = _last(rng, calls, f"{one.answer}\n{other.answer}")
    return ToolTurn(question, (Step(thought, calls), last), [one, other])


def in_a_row(rng: Random, tools: Sequence[Tool], held_out: bool) -> ToolTurn:
    """A count and then a sum with it; `tools` hold a calculator and perhaps others that count."""
    calculator = next(tool for tool in tools if tool.kind is CALCULATOR)
    first = rng.choice([tool for tool in tools if tool.kind in COUNTING])
    while True:
        one = first.kind.problem(rng, held_out, english=True)
        sign, k = rng.choice(("mul", "add", "sub")), rng.randint(2, 99)
        spec: Spec = (sign, int(one.result), k % 10 if sign == "mul" else k)
        if 0 <= spec[1] < 10_000 and is_held_out(_FAMILY_OF[sign].key(spec)) == held_out:
            break
    other = _FAMILY_OF[sign].write(rng, spec, "")
    question = f"{_sentence(one.question)} {rng.choice(_GO_ON[sign]).format(k=spec[2])}"
    begin = Call(first, first.kind.values(one.spec), _result(rng, first, one.result))
    end = _call(rng, calculator, other)
    steps = (
        Step(f"First {first.name}, then {calculator.name}.", [begin]),
        Step(f"The first result is {one.result}. Now {calculator.name}.", [end]),
        _last(rng, [end], f"{expression(spec)} = {other.result}."),
    )
    return ToolTurn(question, steps, [one, other])


def chat_turn(rng: Random, persona: Persona) -> ToolTurn:
    """Small talk, which no tool is for."""
    talk = talk_turn(rng, persona)
    return ToolTurn(talk.question, (Step(f"No tool fits. {talk.thinking}", (), talk.answer),))


def none_fits(rng: Random, tools: Sequence[Tool], held_out: bool) -> ToolTurn:
    """A task without its tool: one that the model does itself, or one that it can't do."""
    taken = {tool.kind.name for tool in tools}
    taken |= {name for near in _NEAR if near & taken for name in near}
    kind = rng.choice([kind for kind in KINDS if kind.name not in taken])
    problem = kind.problem(rng, held_out)
    if kind.skill:
        step = Step(f"No tool fits. {problem.thinking}", (), problem.answer)
    else:
        step = Step("No tool fits, and I can not do it alone.", (), rng.choice(_NOT_MINE))
    return ToolTurn(problem.question, (step,), [problem])


def any_turn(rng: Random, tools: Sequence[Tool], persona: Persona) -> ToolTurn:
    """A turn of any sort, from the training side."""
    chains = any(tool.kind is CALCULATOR for tool in tools)
    draw = rng.random()
    if draw < 0.08:
        return chat_turn(rng, persona)
    if draw < 0.24:
        return none_fits(rng, tools, False)
    if draw < 0.44:
        return parallel(rng, tools, False)
    if draw < 0.62 and chains:
        return in_a_row(rng, tools, False)
    return single(rng, rng.choice(tools), False)
