"""``GET /v1/responses/{id}/input_items``: the items of a stored response's own request."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any

from qwen3_mlx.serve.api_error import ApiError, refused
from qwen3_mlx.serve.ask import Json

_PREFIX = {"message": "msg_", "reasoning": "rs_", "function_call": "fc_"}
_MOST = 100
_USUAL = 20
"""Items of a page, unless ``limit`` asks for another number up to `_MOST`; as at OpenAI's."""


def listed(value: Any, find: Callable[[str], Json]) -> list[Json]:
    """The items of an ``input`` that was read without error, each with an id and a type.

    `find` gives the item that an ``item_reference`` names.
    """
    items = [{"role": "user", "content": value}] if isinstance(value, str) else value
    found: list[Json] = []
    known: set[str] = set()
    for item in items:
        whole = _whole(item, find)
        if not isinstance(whole["id"], str) or whole["id"] in known:
            whole["id"] = _new_id(whole["type"])  # or a reader who goes on after it never ends
        known.add(whole["id"])
        found.append(whole)
    return found


def _whole(item: Json, find: Callable[[str], Json]) -> Json:
    kind = item.get("type")
    if kind == "item_reference" or (not kind and not {"role", "content"} & item.keys()):
        return dict(find(item["id"]))
    kind = kind or "message"
    found = item | {"type": kind, "id": item.get("id")}
    if kind != "message":
        return found
    content = found.get("content")
    if isinstance(content, str):
        part = "output_text" if found.get("role") == "assistant" else "input_text"
        more: Json = {"annotations": []} if part == "output_text" else {}
        found["content"] = [{"type": part, "text": content, **more}]
    return found | {"status": found.get("status") or "completed"}


def _new_id(kind: str) -> str:
    return _PREFIX.get(kind, "item_") + secrets.token_hex(12)


def page(items: list[Json], query: Mapping[str, str]) -> Json:
    """A page of `items`, the last first unless ``order`` is ``asc``. Raises `ApiError` (400)."""
    order, limit, after = query.get("order", "desc"), query.get("limit"), query.get("after")
    if order not in ("asc", "desc"):
        raise refused("order", order, "expected asc or desc")
    most = _USUAL if limit is None else _number(limit)
    rows = items if order == "asc" else items[::-1]
    if after:
        ids = [item["id"] for item in rows]
        if after not in ids:
            message = f"after: got {after[:80]!r}, expected the id of one of these items"
            raise ApiError(400, message, param="after")
        rows = rows[ids.index(after) + 1 :]
    data = rows[:most]
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {}
    return {"object": "list", "data": data, "has_more": len(rows) > most} | (
        ends or {"first_id": None, "last_id": None}
    )


def _number(said: str) -> int:
    found = int(said) if said.isascii() and said.isdigit() and len(said) < 4 else 0
    if not 1 <= found <= _MOST:
        raise refused("limit", said, f"expected a whole number from 1 to {_MOST}")
    return found
