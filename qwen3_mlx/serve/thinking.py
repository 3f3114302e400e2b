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
LEAST_THINKING = 512
"""Tokens that max_tokens alone must allow for thinking to be worth its while."""


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


def options(asked: Asked, family: Family, max_tokens: int | None) -> dict[str, Any]:
    """`asked` as options of a turn of a model of `family`.

    A model that never thinks is not asked to; one that always does is cut after its first token
    where it should not. An effort, or `max_tokens` alone, is a budget that gives way later where it
    leaves no room for an answer; an explicit one is refused then.
    """
    if family in NEVER_THINK:
        return {}
    limit = asked.budget
    if limit is None and asked.effort is not None:
        limit = EFFORTS[asked.effort]
    off = asked.switch is False or limit == 0
    if asked.switch is None and asked.budget is None and max_tokens is not None:
        off = off or max_tokens < LEAST_THINKING
    if off:
        return {"thinking": False} if family == "hybrid" else {"thinking_budget": 1}
    if limit is None:
        limit = max_tokens
    found: dict[str, Any] = {} if limit is None else {"thinking_budget": limit}
    wanted = asked.switch or asked.budget is not None or asked.effort is not None
    return found | ({"thinking": True} if wanted else {})
