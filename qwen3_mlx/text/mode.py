"""Whether a turn thinks: the family, the options, and the soft switches in the messages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from qwen3_mlx.errors import OptionError
from qwen3_mlx.options import Family

# A word of its own: not /thinking, not a/think/b, not ./think. ASCII, because Chinese is written
# without spaces and may stand right before it.
_SWITCH = re.compile(r"(?<![\w/.~-])/(no_)?think(?![\w/-]|\.\w)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Mode:
    """How one turn treats thinking."""

    thinking: bool
    """The model is expected to think: decides the sampling preset."""
    template_flag: bool | None
    """What the template gets as ``enable_thinking``; None passes nothing."""
    starts_inside: bool
    """The prompt itself ends in an open ``<think>``."""


def resolve_mode(
    family: Family,
    messages: Iterable[Mapping[str, Any]],
    thinking: bool | None,
    budget: int | None,
) -> Mode:
    """The mode of a turn from the model's family, the options and the soft switches.

    A budget of 0 is ``thinking=False``. Raises `OptionError` where the family has no such mode.
    """
    off = thinking is False or budget == 0
    if family == "hybrid":
        expected = not off and soft_switch(messages) is not False
        return Mode(expected, False if off else thinking, starts_inside=False)
    if family == "thinking":
        if off:
            hint = "give it a small thinking budget, or load a hybrid or Instruct model"
            raise OptionError("this model always thinks: it can't be switched off", hint=hint)
        return Mode(True, None, starts_inside=True)
    if thinking or budget:
        hint = "load a hybrid or Thinking-2507 model, or leave thinking and its budget out"
        raise OptionError("this model never thinks", hint=hint)
    return Mode(False, None, starts_inside=False)


def soft_switch(messages: Iterable[Mapping[str, Any]]) -> bool | None:
    """The last /think (True) or /no_think (False) in system and user messages, else None."""
    switch = None
    for message in messages:
        content = message.get("content")
        if message.get("role") in ("system", "user") and isinstance(content, str):
            for found in _SWITCH.finditer(content):
                switch = found[1] is None
    return switch
