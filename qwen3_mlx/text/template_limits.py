"""Limits of a chat template: an allowance of work and one of memory for each rendering.

A template can multiply texts by numbers, lists by lists and loops by loops. So each such operation
charges an allowance first. The allowance counts work, so a busy machine doesn't change the result;
a limit of processor time is only the second guard. The allowance grows with the size of the
conversation, so that a long one is not refused for its length.
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
    4_000_000  # a unit is four characters copied, or an eighth of a value visited: at most 100 ns
)
_MEMORY = 10_000_000  # characters and references created, 1 to 8 bytes each
_WORK_FOR_INPUT, _MEMORY_FOR_INPUT = 200, 30
_CPU_SECONDS = 1.5
_BETWEEN_LOOKS = 250_000  # units of work; reading the clock takes half a microsecond

VALUE = 8  # units for visiting one value
CALL = 20  # units for one call of a filter, a macro or a method
MAX_BITS = 1024  # most bits of an integer; no chat needs larger ones
MAX_WIDTH = 1000  # most characters of padding or indent, most items of a batch


class Allowance:
    """The work and memory that one rendering has left; its methods raise `OverflowError`."""

    def __init__(self, variables: Mapping[str, Any]) -> None:
        self._variables: Mapping[str, Any] | None = variables
        self._work, self._memory = _WORK, _MEMORY
        self._next_look = _WORK - _BETWEEN_LOOKS
        self._end = time.thread_time() + _CPU_SECONDS

    def spend(self, units: int) -> None:
        """Charge `units` of work. Raises `OverflowError` if none is left."""
        self._work -= units
        if self._work < self._next_look:
            self._look()

    def make(self, size: int) -> None:
        """Charge memory and work for a text or list of `size`. Raises `OverflowError`."""
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
        """Add the allowance for the conversation's size, once; weighed only when it is needed."""
        if self._variables is None:
            return
        variables, self._variables = self._variables, None
        size = _weigh(variables, lambda units: None)
        self._work += size * _WORK_FOR_INPUT
        self._memory += size * _MEMORY_FOR_INPUT

    def weigh(self, value: Any) -> int:
        """The size of `value` and all its contents, repeated ones included; charges that size."""
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
            spend(size)  # before the parts are added to `waiting`
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
        raise OverflowError("a namespace used as a value")  # printing it would print its contents
    if isinstance(value, Mapping):
        return list(chain(value.keys(), value.values()))
    if isinstance(value, (list, tuple, set, frozenset, KeysView, ValuesView, ItemsView)):
        return value
    return ()


ALLOWANCE: ContextVar[Allowance] = ContextVar("allowance")
"""The allowance of the current rendering; `SandboxedTemplate.render` sets it."""


def concatenate(pieces: Iterable[str]) -> str:
    """``"".join(pieces)``, charged; jinja2 uses it for the output of macros and blocks."""
    texts = pieces if isinstance(pieces, list) else list(pieces)
    ALLOWANCE.get().make(sum(map(len, texts)))
    return "".join(texts)


def counted(values: Any, weight: int) -> Any:
    """`values` for a loop, charged `weight` per iteration."""
    allowance = ALLOWANCE.get()
    if hasattr(values, "__len__"):
        allowance.spend(len(values) * weight)
        return values
    return counting(values, weight) if hasattr(values, "__iter__") else values


def counting(values: Iterable[Any], weight: int = VALUE) -> Iterator[Any]:
    """Yields `values`, charging `weight` for each."""
    allowance = ALLOWANCE.get()
    for value in values:
        allowance.spend(weight)
        yield value


def weighed(value: Any) -> Any:
    """`value`, charged for its size: it will be compared, or hashed as a key."""
    if type(value) is not int and value is not None and type(value) is not bool:
        ALLOWANCE.get().weigh(value)
    return value


def sliced(value: Any) -> Any:
    """`value`, charged for its length: a slice will be copied."""
    if hasattr(value, "__len__"):
        ALLOWANCE.get().make(len(value))
    return value


def printed(value: Any) -> Any:
    """`value`, charged for the text that it will be printed as."""
    if not isinstance(value, str):
        allowance = ALLOWANCE.get()
        allowance.make(4 * allowance.weigh(value))
    return value
