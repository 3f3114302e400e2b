"""``thinking_budget="auto"``: thinking ends once probes find that the answer is certain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import inf
from typing import Any

from qwen3_mlx.errors import OptionError, shown
from qwen3_mlx.options.plain_numbers import within
from qwen3_mlx.options.plain_words import is_word, switch

_DIGITS = 18
"""Most digits of a budget: no context is longer, and `int` refuses texts of thousands of digits."""
SPELLED = "a number of tokens, auto, auto:N (at most N), low, medium or high"


@dataclass(frozen=True, slots=True)
class AutoBudget:
    """A thinking budget that probes may end early; fields left None use the model's calibration.

    Raises `OptionError` for a number out of its range.
    """

    cap: int | None = None
    """Most tokens of thinking, whatever the probes find."""
    floor: int | None = None
    """Tokens of thinking before the first probe."""
    interval: int | None = None
    """Tokens between two probes; probes run at sentence ends, at growing intervals."""
    certainty: float | None = None
    """Least probability of each token of the answer's value with which a probe ends thinking."""
    first: bool = False
    """Probe before any thinking, and skip it if the answer is certain: hybrid models only."""
    level: str = ""
    """``low`` or ``medium`` if the user chose a level: its cap shrinks to fit a short context."""

    def __post_init__(self) -> None:
        for name, low in (("cap", 1), ("floor", 0), ("interval", 1)):
            value = getattr(self, name)
            tokens = within(value, low, inf, integer=True)
            if value is not None and tokens is None:
                raise _refused(name, value, f"a whole number, {low} or more tokens")
            object.__setattr__(self, name, tokens)
        sure = within(self.certainty, 0, 1, integer=False)
        if self.certainty is not None and not sure:
            raise _refused("certainty", self.certainty, "a probability above 0, at most 1")
        object.__setattr__(self, "certainty", sure)
        switch("thinking_budget: first", self.first)
        if not is_word(self.level, "", "low", "medium"):
            raise _refused("level", self.level, "low or medium")

    def __str__(self) -> str:
        cap = "" if self.cap is None else f":{self.cap:,}"
        return f"{self.level or f'auto{cap}'}{', answering first' if self.first else ''}"

    def plain(self) -> dict[str, Any]:
        """The fields that differ from their defaults, as a dict of JSON types."""
        return {key: value for key, value in asdict(self).items() if value not in (None, False, "")}


_LEVELS = {
    "low": AutoBudget(cap=1_024, certainty=0.8, level="low"),
    "medium": AutoBudget(cap=4_096, certainty=0.95, level="medium"),
    "high": None,
}
"""The budgets behind the level names; the numbers are not yet measured on a published model."""

_NAMES = {field.name for field in fields(AutoBudget)}


def read_budget(value: Any) -> Any:
    """Parse a thinking budget: a text or dict becomes an `AutoBudget`, an int, or None (``high``).

    Any other value is returned unchanged. Raises `OptionError`.
    """
    if isinstance(value, Mapping):
        unknown = [key for key in value if key not in _NAMES]
        if unknown:
            expected = f"some of {', '.join(sorted(_NAMES))}"
            raise OptionError("thinking_budget", got=shown(unknown[0]), expected=expected)
        return AutoBudget(**value)
    if not isinstance(value, str):
        return value
    text = value.strip().lower()
    if text in _LEVELS:
        return _LEVELS[text]
    digits = text.replace(",", "").replace("_", "")
    if _is_number(digits.removeprefix("-")):
        return int(digits)
    word, _, cap = digits.partition(":")
    if word != "auto" or (":" in digits and not _is_number(cap)):
        raise OptionError("thinking_budget", got=shown(value)[:80], expected=SPELLED)
    return AutoBudget(cap=int(cap)) if cap else AutoBudget()


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _DIGITS


def most_tokens(budget: int | AutoBudget | None) -> int | None:
    """The most tokens of thinking that `budget` allows; None is no limit."""
    return budget.cap if isinstance(budget, AutoBudget) else budget


def _refused(name: str, value: object, expected: str) -> OptionError:
    return OptionError(f"thinking_budget: {name}", got=shown(value), expected=expected)
