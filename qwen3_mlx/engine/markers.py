"""The token ids that structure a turn, and the parts between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto


@dataclass(frozen=True, slots=True)
class Markers:
    """The token ids that structure a turn; None where a vocabulary lacks one.

    `tool` and `tool_close` enclose a tool call, in a turn that offers tools. With `bytes_of` a cut
    waits for whole characters, and spelled markers count where the vocabulary has no ids for
    them. `is_call` judges the bytes between `tool` and `tool_close`.
    """

    open: int | None
    close: int | None
    tool: int | None
    eos: frozenset[int]
    tool_close: int | None = None
    bytes_of: Callable[[int], bytes] | None = None
    is_call: Callable[[bytes], bool] = lambda _: True


class Place(Enum):
    """Which part of the turn the next token belongs to."""

    UNDECIDED = auto()
    """Nothing but white space so far."""
    THOUGHT = auto()
    CALL = auto()
    ANSWER = auto()
