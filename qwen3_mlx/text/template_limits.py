"""How much a chat template may do: one allowance of work and one of memory for each rendering.

A template's range is finite, but it multiplies: texts by numbers, lists by themselves, loops by
loops. So whatever multiplies asks here first, and the answer depends on the work, not on the clock
of a busy machine; the clock only stands behind it. What a conversation brings along counts in the
template's favour: a long one may be rendered as often as a short one.
"""

from __future__ import annotations

import time
from collections.abc import (
    Callable,
    Collection,
    ItemsView,
    Iterable,
    Iterator,
    KeysView,
    Mapping,
    ValuesView,
)
from contextvars import ContextVar
from itertools import chain
from typing import Any

from jinja2.utils import Namespace

_WORK = (
    4_000_000  # a unit is four characters copied, an eighth of a value looked at: 100 ns at most
)
_MEMORY = 10_000_000  # characters and references made, 1 to 8 bytes each
_WORK_FOR_INPUT, _MEMORY_FOR_INPUT = 200, 30
_CPU_SECONDS = 1.5
_BETWEEN_LOOKS = 250_000  # units of work; looking at the clock costs half a microsecond

VALUE = 8  # units: one value looked at
CALL = 20  # units: one call of a filter, a macro or a method
MAX_BITS = 1024  # of a whole number; no chat counts further
MAX_WIDTH = 1000  # of padding, of an indent, of a batch


class Allowance:
    """What one rendering may still do. `OverflowError` says that it has done too much."""

    def __init__(self, variables: Mapping[str, Any]) -> None:
        self._variables: Mapping[str, Any] | None = variables
        self._work, self._memory = _WORK, _MEMORY
        self._next_look = _WORK - _BETWEEN_LOOKS
        self._end = time.thread_time() + _CPU_SECONDS

    def spend(self, units: int) -> None:
        """Take `units` off the work that is left."""
        self._work -= units
        if self._work < self._next_look:
            self._look()

    def make(self, size: int) -> None:
        """Take a text or a list of `size`, which is about to be made, off work and memory."""
        self._memory -= size
        self.spend(size // 4)
        if self._memory < 0:
            self._look()

    def _look(self) -> None:
        if min(self._work, self._memory) < 0:
            self._extend()
        if self._work < 0 or time.thread_time() > self._end:
            raise OverflowError("more work than a conversation needs")
        if self._memory < 0:
            raise OverflowError("more memory than a conversation needs")
        self._next_look = self._work - _BETWEEN_LOOKS

    def _extend(self) -> None:
        """Add, once, what the conversation is worth; most never come so far."""
        if self._variables is None:
            return
        variables, self._variables = self._variables, None
        size = _weigh(variables, lambda units: None)
        self._work += size * _WORK_FOR_INPUT
        self._memory += size * _MEMORY_FOR_INPUT

    def weigh(self, value: Any) -> int:
        """The size of `value` with all it holds, each mention counted; spends as it looks."""
        if isinstance(value, str):
            self.spend(len(value))
            return len(value)
        return _weigh(value, self.spend)


def _weigh(value: Any, spend: Callable[[int], None]) -> int:
    waiting, total = [value], 0
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            size = len(one)
        elif parts := _parts(one):
            size = VALUE * len(parts)
            spend(size)  # before there are so many more to look at
            total += size
            waiting.extend(parts)
            continue
        else:
            size = VALUE
        spend(size)
        total += size
    return total


def _parts(value: Any) -> Collection[Any]:
    if value is None or isinstance(value, (int, float)):
        if isinstance(value, int) and value.bit_length() > MAX_BITS:
            raise OverflowError(f"a number of more than {MAX_BITS} bits")
        return ()
    if isinstance(value, Namespace):
        raise OverflowError("a namespace used as a value")  # its text shows all that it holds
    if isinstance(value, Mapping):
        return list(chain(value.keys(), value.values()))
    if isinstance(value, (list, tuple, set, frozenset, KeysView, ValuesView, ItemsView)):
        return value
    return ()


ALLOWANCE: ContextVar[Allowance] = ContextVar("allowance")
"""The allowance of the rendering that runs; set by whoever renders."""


def concatenate(pieces: Iterable[str]) -> str:
    """``"".join`` for what macros and blocks put out."""
    texts = pieces if isinstance(pieces, list) else list(pieces)
    ALLOWANCE.get().make(sum(map(len, texts)))
    return "".join(texts)


def counted(values: Any, weight: int) -> Any:
    """`values` as a loop takes them, each turn of which costs `weight`."""
    allowance = ALLOWANCE.get()
    if hasattr(values, "__len__"):
        allowance.spend(len(values) * weight)
        return values
    return counting(values, weight) if hasattr(values, "__iter__") else values


def counting(values: Iterable[Any], weight: int = VALUE) -> Iterator[Any]:
    """`values`, each of which costs `weight` when it comes."""
    allowance = ALLOWANCE.get()
    for value in values:
        allowance.spend(weight)
        yield value


def weighed(value: Any) -> Any:
    """`value`, when it isn't too big to be compared or to be a key."""
    if type(value) is not int and value is not None and type(value) is not bool:
        ALLOWANCE.get().weigh(value)
    return value


def sliced(value: Any) -> Any:
    """`value`, of which a part will be copied."""
    if hasattr(value, "__len__"):
        ALLOWANCE.get().make(len(value))
    return value


def printed(value: Any) -> Any:
    """`value`, whose text will be put out."""
    if not isinstance(value, str):
        allowance = ALLOWANCE.get()
        allowance.make(4 * allowance.weigh(value))
    return value
