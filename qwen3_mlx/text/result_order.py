"""Puts tool results into the order of their calls: templates pair them by their place alone."""

from __future__ import annotations

from typing import Any


def in_call_order(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Normalised `messages`, each run of tool results sorted by the calls right before it.

    A run stays as it is unless each of its results names another one of those calls by its id.
    """
    ordered: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    run: list[dict[str, Any]] = []
    for message in [*messages, {"role": ""}]:
        if message["role"] == "tool":
            run.append(message)
            continue
        ordered += _sorted(run, _places(calls))
        if run or message["role"] != "assistant":
            calls, run = [], []
        calls = [*calls, *(message.get("tool_calls") or [])]
        ordered.append(message)
    return ordered[:-1]


def _places(calls: list[dict[str, Any]]) -> dict[str, int]:
    """The place of each call by its id; {} if an id is missing or stands twice."""
    ids = [call.get("id") for call in calls]
    found = {id: n for n, id in enumerate(ids) if isinstance(id, str) and id}
    return found if len(found) == len(ids) else {}


def _sorted(run: list[dict[str, Any]], place: dict[str, int]) -> list[dict[str, Any]]:
    ids = [message.get("tool_call_id") for message in run]
    named = {id for id in ids if isinstance(id, str) and id in place}
    if len(named) < len(run):
        return run
    return sorted(run, key=lambda message: place[message["tool_call_id"]])
