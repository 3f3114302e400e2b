"""Problems and small talk made into conversations, in every mode that the model has to know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from random import Random
from typing import Literal

from training.data.arithmetic import ADDITION, MULTIPLICATION
from training.data.calendar import CALENDAR
from training.data.chains import CHAINS
from training.data.decimals import DECIMALS
from training.data.exchange import Exchange, Persona, asked
from training.data.greetings import GREETINGS
from training.data.letters import LETTERS
from training.data.package import PACKAGE
from training.data.problem import Family, Problem, is_held_out
from training.data.sorting import REVERSING, SORTING
from training.data.talk import BLANKS, OUT_OF_SCOPE, SMALL_TALK

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        ADDITION, MULTIPLICATION, CHAINS, DECIMALS, LETTERS, SORTING, REVERSING, CALENDAR,
    )
}  # fmt: skip
MULTI_STEP = ("addition", "multiplication", "chains", "letters", "reversing", "calendar")
"""Families whose results need several steps: where thinking has to show."""
_OF_KIND = {"mul": "multiplication", "add": "addition", "sub": "addition", "sum": "addition"}
_TALK = "talk"
_SHARES = {
    "addition": 12, "multiplication": 14, "chains": 17, "decimals": 8, "letters": 12,
    "sorting": 12, "reversing": 10, "calendar": 13, _TALK: 13,
}  # fmt: skip

Mode = Literal["thinking", "cut", "hard", "soft"]
"""Thinking to its end; thinking cut short by the stop text; not thinking because the prompt holds
the empty block; not thinking because the text says /no_think (the model writes the block)."""
_MODES: tuple[Mode, ...] = ("thinking", "cut", "hard", "soft")
_MODE_SHARES = (46, 25, 20, 9)

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages up to the last user turn, and what the model is to write after them."""

    messages: list[Message]
    thinking: str
    answer: str
    mode: Mode


@dataclass(frozen=True, slots=True)
class Turn:
    """One question with its thought and answer."""

    question: str
    thinking: str
    answer: str
    brief: str
    problem: Problem | None = field(default=None)


_EXCHANGES: tuple[tuple[Sequence[Exchange], int], ...] = (
    (GREETINGS, 28), (PACKAGE, 30), (SMALL_TALK, 16), ((OUT_OF_SCOPE,), 26),
)  # fmt: skip
_EXCHANGE_WEIGHTS = tuple(accumulate(weight for _, weight in _EXCHANGES))
_CHECKS = ("Are you sure?", "are you sure?", "Really?", "Sure?", "Check again.", "Is that right?",
           "Can you check that?", "Is that correct?")  # fmt: skip
_WHYS = ("Why?", "why?", "Why is that?", "How come?", "Why?!", "Explain why.", "How do you know?")
_BRIEF = ("Be brief.", "Answer briefly.", "Only the result, please.",
"Answer with the result only.",
          "Keep answers short.", "Be concise.")  # fmt: skip
SYSTEMS = (
    "You are a helpful assistant.", "You are a helpful assistant", "You are Qwen.",
    "You are Qwen3.",
    "You are a friendly teacher.", "You are a careful calculator.", "Think step by step.",
    "You help with homework.", "Answer in English.", "You are qwen3-mlx.", "Be polite.",
    "You are a small model.", "Be kind and correct.", "You are an assistant in a terminal.",
)  # fmt: skip


def talk_turn(rng: Random, persona: Persona) -> Turn:
    """Small talk, a greeting, a question about the package, or one out of scope."""
    table = rng.choices(_EXCHANGES, cum_weights=_EXCHANGE_WEIGHTS)[0][0]
    exchange = rng.choice(table)
    text = rng.choice(exchange.asks)
    if exchange is OUT_OF_SCOPE:
        text = text.format(**{name: rng.choice(words) for name, words in BLANKS.items()})
    answer = persona.fill(rng.choice(exchange.answers))
    shortest = persona.fill(min(exchange.answers, key=len))
    return Turn(asked(rng, text), exchange.thinking, answer, shortest)


def problem_turn(problem: Problem) -> Turn:
    """The turn that a problem makes."""
    return Turn(problem.question, problem.thinking, problem.answer, problem.result, problem)


def _again(rng: Random, problem: Problem) -> Turn:
    """A doubt or a why after an answer: the steps once more."""
    if problem.reason and rng.random() < 0.5:
        answer = f"Because {problem.reason}."
        return Turn(
            rng.choice(_WHYS), f"I go through it again. {problem.thinking}", answer, answer, problem
        )
    answer = f"Yes: {problem.answer}"
    return Turn(
        rng.choice(_CHECKS), f"I check it again. {problem.thinking}", answer, answer, problem
    )


def _follow_up(rng: Random, problem: Problem) -> Turn | None:
    found = FAMILIES[problem.family].follow(rng, problem)
    if found is None:
        return None
    spec, question = found
    family = FAMILIES[_OF_KIND.get(spec[0], problem.family)]
    if is_held_out(family.key(spec)):
        return None
    return problem_turn(family.write(rng, spec, question))


def next_turn(rng: Random, persona: Persona, last: Turn | None) -> Turn:
    """A new question, or one that follows from the last."""
    if last is not None and last.problem is not None and not is_again(last):
        draw = rng.random()
        if draw < 0.12:
            return _again(rng, last.problem)
        if draw < 0.5 and (turn := _follow_up(rng, last.problem)) is not None:
            return turn
    name = rng.choices(tuple(_SHARES), tuple(_SHARES.values()))[0]
    if name == _TALK:
        return talk_turn(rng, persona)
    return problem_turn(FAMILIES[name].make(rng))


def is_again(turn: Turn) -> bool:
    """Whether the turn only repeats a problem."""
    return turn.problem is not None and turn.thinking != turn.problem.thinking


def _turn_count(rng: Random, long: bool) -> int:
    if long:
        return rng.randint(6, 40)
    return rng.choices((1, 2, 3, 4, 5), (62, 17, 10, 6, 5))[0]


def flagged(rng: Random, text: str, flag: str) -> str:
    """`text` with a flag at its end, or in front."""
    return f"{flag} {text}" if rng.random() < 0.15 else f"{text.rstrip()} {flag}"


def _place_flags(rng: Random, messages: list[Message], mode: Mode) -> None:
    """Puts /think and /no_think into the texts so that the last one agrees with the mode."""
    asking = [m for m in messages if m["role"] != "assistant"]
    wanted = "/no_think" if mode == "soft" else "/think"
    if mode != "soft" and rng.random() < 0.9:
        return
    last = rng.randrange(len(asking)) if rng.random() < 0.3 else len(asking) - 1
    if mode == "hard":
        wanted = rng.choice(("/think", "/no_think"))
    asking[last]["content"] = flagged(rng, asking[last]["content"], wanted)
    if last and rng.random() < 0.4:
        earlier = asking[rng.randrange(last)]
        earlier["content"] = flagged(rng, earlier["content"], rng.choice(("/think", "/no_think")))


def converse(rng: Random, persona: Persona, long: bool = False) -> Conversation:
    """A conversation of 1 to 5 turns (`long`: 6 to 40) with its last answer still unwritten."""
    messages: list[Message] = []
    draw = rng.random()
    brief = draw < 0.07
    if draw < 0.25:
        messages.append({"role": "system", "content": rng.choice(_BRIEF if brief else SYSTEMS)})
    turn: Turn | None = None
    for _ in range(_turn_count(rng, long)):
        if turn is not None:
            messages.append({"role": "assistant", "content": turn.brief if brief else turn.answer})
        turn = next_turn(rng, persona, turn)
        messages.append({"role": "user", "content": turn.question})
    assert turn is not None
    mode = rng.choices(_MODES, _MODE_SHARES)[0]
    _place_flags(rng, messages, mode)
    return Conversation(messages, turn.thinking, turn.brief if brief else turn.answer, mode)


def prompt(conversation: Conversation) -> str:
    """The chat template's text for these messages, the generation prompt included."""
    parts = [f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in conversation.messages]
    parts.append("<|im_start|>assistant\n")
    if conversation.mode == "hard":
        parts.append("<think>\n\n</think>\n\n")
    return "".join(parts)
