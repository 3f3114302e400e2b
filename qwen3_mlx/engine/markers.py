"""The token ids that structure a turn, and the parts between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto


@dataclass(frozen=True, slots=True)
class Markers:
    """The token ids that structure a turn; None if a vocabulary lacks one.

    `tool` and `tool_close` enclose a tool call, in a turn that offers tools. With `bytes_of` a cut
    waits for complete characters, and markers spelled in text count if the vocabulary has no ids
    for them. `is_call` decides whether the bytes between `tool` and `tool_close` are a call.
    """

    open: int | None
    close: int | None
    tool: int | None
    eos: frozenset[int]
    tool_close: int | None = None
    bytes_of: Callable[[int], bytes] | None = None
    is_call: Callable[[bytes], bool] = lambda _: True


class Place(Enum):
    """The part of the turn to which the next token belongs."""

    UNDECIDED = auto()
    """Only white space so far."""
    THOUGHT = auto()
    CALL = auto()
    ANSWER = auto()
