"""Parses every dialect's fields for thinking into one switch, one budget and one effort."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, Literal

from qwen3_mlx.errors import OptionError
from qwen3_mlx.options import NEVER_THINK, Family
from qwen3_mlx.options.auto_budget import AutoBudget, read_budget
from qwen3_mlx.serve.api_error import ApiError, refused
from qwen3_mlx.serve.fields import Fields

EFFORTS: dict[str, int | None] = {
    "none": 0,
    "minimal": 256,
    "low": 1_024,
    "medium": 4_096,
    "high": 16_384,
    "xhigh": None,
    "max": None,
}
"""Tokens of thinking for each effort; None is no limit."""

Budget = int | AutoBudget | Literal["high"]
"""Tokens of thinking, the settings of probes that end it, or "high" for no limit."""

_OWN = "thinking_budget"
"""Our own field: it accepts every `Budget`; the fields of other programs accept only numbers."""
_NUMBERS = ("thinking_token_budget", "thinking_budget_tokens", "reasoning_max_tokens")
_TYPES: dict[Any, bool | None] = {
    "enabled": True,
    "disabled": False,
    "adaptive": None,
    "between_tools": False,
}
"""Anthropic's values of ``thinking.type`` as a switch; ``between_tools`` allows no thinking but
notes between calls, and counts as off."""
LEAST_THINKING = 512
"""The ``max_tokens`` below which a request without a switch or budget gets no thinking."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request's thinking fields, merged from all their names; None if not set."""

    switch: bool | None = None
    budget: Budget | None = None
    effort: str | None = None

    @property
    def number(self) -> int:
        """The budget if it is a number of tokens, else 0."""
        return self.budget if isinstance(self.budget, int) else 0


def read(fields: Fields) -> Asked:
    """Parse all fields for thinking. Raises `ApiError` if two contradict each other."""
    budgets: dict[str, Budget | None] = {name: fields.integer(name) for name in _NUMBERS}
    budgets[_OWN] = _budget(fields)
    switches = {"enable_thinking": fields.flag("enable_thinking")}
    efforts = {"reasoning_effort": fields.text("reasoning_effort")}
    if isinstance(fields.raw("think"), str):  # Ollama's: true, false or an effort
        efforts["think"] = fields.text("think")
    else:
        switches["think"] = fields.flag("think")
    if kwargs := fields.object("chat_template_kwargs"):
        switches["chat_template_kwargs.enable_thinking"] = kwargs.flag("enable_thinking")
        budgets[f"chat_template_kwargs.{_OWN}"] = _budget(kwargs)
    if reasoning := fields.object("reasoning"):
        efforts["reasoning.effort"] = reasoning.text("effort")
        budgets["reasoning.max_tokens"] = reasoning.integer("max_tokens")
        switches["reasoning.enabled"] = reasoning.flag("enabled")
    if config := fields.object("output_config"):
        efforts["output_config.effort"] = config.text("effort")
    _anthropic(fields, budgets, switches)
    efforts = {name: value for name, value in efforts.items() if _says(value)}
    effort: str | None = _one(efforts)
    if effort is not None and effort not in EFFORTS:
        raise refused(_name(efforts), effort, f"expected one of {', '.join(EFFORTS)}")
    found = Asked(_one(switches), _one(budgets), effort)
    _check_together(found, switches, budgets, efforts)
    return found


def _check_together(
    asked: Asked,
    switches: dict[str, bool | None],
    budgets: dict[str, Budget | None],
    efforts: dict[str, str | None],
) -> None:
    """Raise `ApiError` if a switch, a budget and an effort say on and off.

    An effort other than none is a wish, which any switch or budget overrides: Claude Code sends
    one with every request, also with those whose thinking is disabled.
    """
    wishes = {name: value for name, value in efforts.items() if value == "none"}
    said = {name: v for name, v in (switches | budgets | wishes).items() if v is not None}
    on = [name for name, value in said.items() if value not in (False, 0, "none")]
    off = [name for name, value in said.items() if value in (False, 0, "none")]
    if on and off:
        pairs = " and ".join(f"{name} {_spelled(said[name])}" for name in (on[0], off[0]))
        raise ApiError(400, f"{pairs} contradict each other; leave one out", param=off[0])


def _spelled(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool | int | str) else "auto"


def _says(effort: str | None) -> bool:
    """Whether `effort` is one; "default" is Groq's word for none."""
    return effort not in (None, "", "default")


def _budget(fields: Fields) -> Budget | None:
    """Parse `_OWN`: a number, a word, or an object with `AutoBudget`'s fields.

    Raises `ApiError`.
    """
    value = fields.raw(_OWN)
    if not isinstance(value, str | dict):
        return fields.integer(_OWN)
    where = f"{fields.where}{_OWN}"
    try:
        found = read_budget(value)
    except OptionError as error:
        raise ApiError(400, f"{fields.where}{error}", param=where) from None
    if isinstance(found, int):
        raise refused(where, value, "a number has no quotes")
    return found or "high"


def _anthropic(
    fields: Fields, budgets: dict[str, Budget | None], switches: dict[str, bool | None]
) -> None:
    if isinstance(flag := fields.raw("thinking"), bool):
        switches["thinking"] = flag
        return
    thinking = fields.object("thinking")
    if thinking is None:
        return
    kind = thinking.text("type")
    if kind not in _TYPES:
        raise refused("thinking.type", kind, f"expected one of {', '.join(_TYPES)}")
    budget = thinking.integer("budget_tokens")
    # One object says one thing: "enabled" is how a budget is given, also a budget of 0.
    switches["thinking.type"] = None if kind == "enabled" and budget == 0 else _TYPES[kind]
    if kind == "enabled":
        budgets["thinking.budget_tokens"] = budget


def _one(values: dict[str, Any]) -> Any:
    said = {name: value for name, value in values.items() if value is not None}
    if len(set(said.values())) > 1:
        pairs = " and ".join(f"{name} {value}" for name, value in said.items())
        raise ApiError(400, f"{pairs} contradict each other", param=next(iter(said)))
    return next(iter(said.values()), None)


def _name(values: dict[str, Any]) -> str:
    return next(name for name, value in values.items() if value is not None)


def options(
    asked: Asked, family: Family, max_tokens: int | None, context: int | None = None
) -> dict[str, Any]:
    """`asked` as options of a turn; `context` is the model's, in tokens.

    A model that never thinks gets no options; one that always thinks gets a budget of 1 token if
    thinking is off. A budget from an effort, from `max_tokens` alone or from the probes' cap gives
    way later if it leaves no room for the answer; an explicit number is then refused.
    """
    if family in NEVER_THINK:
        return {}
    limit = None if asked.budget == "high" else asked.budget
    if asked.budget is None and asked.effort is not None:
        limit = EFFORTS[asked.effort]
    off = asked.switch is False or limit == 0
    if asked.switch is None and asked.budget is None and max_tokens is not None:
        off = off or max_tokens < LEAST_THINKING
    if off:
        return {"thinking": False} if family == "hybrid" else {"thinking_budget": 1}
    limit = _capped(limit, max_tokens, context)
    found: dict[str, Any] = {} if limit is None else {"thinking_budget": limit}
    wanted = asked.switch or asked.budget is not None or asked.effort is not None
    return found | ({"thinking": True} if wanted else {})


def _capped(
    limit: int | AutoBudget | None, max_tokens: int | None, context: int | None
) -> int | AutoBudget | None:
    """`limit` with an upper bound, by default `max_tokens`, so that an answer can follow."""
    if limit is None:
        return max_tokens
    if isinstance(limit, int) or limit.cap is not None or not max_tokens or max_tokens < 1:
        return limit
    most = max_tokens if context is None else min(max_tokens, context - 1)
    return replace(limit, cap=max(most, 1))
