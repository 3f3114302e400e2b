"""Every name that programs have for thinking, read as one switch and one budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qwen3_mlx.options import NEVER_THINK, Family
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
"""What the words mean in tokens of thinking; None is no limit."""

_BUDGETS = (
    *("thinking_budget", "thinking_token_budget", "thinking_budget_tokens"),
    "reasoning_max_tokens",
)
_TYPES: dict[Any, bool | None] = {
    "enabled": True,
    "disabled": False,
    "adaptive": None,
    "between_tools": False,
}
"""Anthropic's words; the last is thinking off, but for notes between calls."""
LEAST_ANSWER, LEAST_THINKING = 256, 512
"""Tokens that max_tokens alone leaves for the answer; below the second there is no thinking."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request says of thinking, under whatever names; None where it says nothing."""

    switch: bool | None = None
    budget: int | None = None
    effort: str | None = None


def read(fields: Fields) -> Asked:
    """Collect all names at once. Raises `ApiError` where two say different things."""
    budgets = {name: fields.integer(name) for name in _BUDGETS}
    switches = {name: fields.flag(name) for name in ("enable_thinking", "think")}
    efforts = {"reasoning_effort": fields.text("reasoning_effort")}
    if kwargs := fields.object("chat_template_kwargs"):
        switches["chat_template_kwargs.enable_thinking"] = kwargs.flag("enable_thinking")
        budgets["chat_template_kwargs.thinking_budget"] = kwargs.integer("thinking_budget")
    if reasoning := fields.object("reasoning"):
        efforts["reasoning.effort"] = reasoning.text("effort")
        budgets["reasoning.max_tokens"] = reasoning.integer("max_tokens")
        switches["reasoning.enabled"] = reasoning.flag("enabled")
    if config := fields.object("output_config"):
        efforts["output_config.effort"] = config.text("effort")
    _anthropic(fields, budgets, switches)
    effort: str | None = _one(efforts)
    if effort is not None and effort not in EFFORTS:
        raise refused(_name(efforts), effort, f"expected one of {', '.join(EFFORTS)}")
    return Asked(_one(switches), _one(budgets), effort)


def _anthropic(
    fields: Fields, budgets: dict[str, int | None], switches: dict[str, bool | None]
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
    switches["thinking.type"] = _TYPES[kind]
    budget = thinking.integer("budget_tokens")
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


def options(asked: Asked, family: Family, max_tokens: int | None, stop_text: int) -> dict[str, Any]:
    """`asked` as options of a turn of a model of `family`; the stop text has `stop_text` tokens.

    An explicit budget is taken as it is, and refused later if it leaves no room. An effort, or
    nothing but `max_tokens`, is held to what leaves room for an answer. A model that never thinks
    is not asked to; one that always does is cut after its first token.
    """
    if family in NEVER_THINK:
        return {}
    limit = asked.budget
    if limit is None and asked.effort is not None:
        limit = EFFORTS[asked.effort]
    off = asked.switch is False or limit == 0
    if asked.switch is None and asked.budget is None and not off and max_tokens is not None:
        off = max_tokens < LEAST_THINKING
    if off:
        return _off(family, max_tokens, stop_text)
    if asked.budget is None and max_tokens is not None:
        room = max(max_tokens - max(LEAST_ANSWER, max_tokens // 4), 1)
        room = min(room, max(max_tokens - stop_text - 1, 1))
        limit = room if limit is None else min(limit, room)
    if limit is not None and max_tokens is not None and asked.budget is None:
        limit = limit if max_tokens > limit + stop_text else None
    found: dict[str, Any] = {} if limit is None else {"thinking_budget": limit}
    wanted = asked.switch or asked.budget is not None or asked.effort is not None
    return found | ({"thinking": True} if wanted else {})


def _off(family: Family, max_tokens: int | None, stop_text: int) -> dict[str, Any]:
    if family == "hybrid":
        return {"thinking": False}
    fits = max_tokens is None or max_tokens > stop_text + 1
    return {"thinking_budget": 1} if fits else {}
