"""BFCL's questions and their possible answers, read from the `bfcl-eval` wheel where one has it.

Its data is Apache 2.0 and is not kept here: ``pip install --no-deps bfcl-eval`` brings it (the
package itself wants torch, which nothing here needs). Its multi-turn questions, which run its
simulated services, are read by `benchmarks.bfcl_turns`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.call_check import Expected, Json, Question, Step, Turn

FILES = {
    "simple": ("simple_python",),
    "multiple": ("multiple",),
    "parallel": ("parallel", "parallel_multiple"),
    "irrelevance": ("irrelevance",),
}
_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}
"""BFCL names types as Python does; the templates are given JSON Schema's names, as its own
handlers give them."""


def data_folder() -> Path | None:
    """Where the wheel's data lies, or None."""
    found = find_spec("bfcl_eval")
    if found is None or not found.submodule_search_locations:
        return None
    folder = Path(next(iter(found.submodule_search_locations))) / "data"
    return folder if folder.is_dir() else None


def questions(folder: Path, category: str, count: int | None = None) -> list[Question]:
    """The first `count` questions of a category, taken from its files in turn."""
    files = [list(_read(folder, name, category)) for name in FILES[category]]
    share = None if count is None else -(-count // len(files))
    return [question for file in files for question in file[:share]][:count]


def _read(folder: Path, name: str, category: str) -> Iterator[Question]:
    asked = lines(folder / f"BFCL_v4_{name}.json")
    answers = folder / "possible_answer" / f"BFCL_v4_{name}.json"
    truths = {one["id"]: one["ground_truth"] for one in lines(answers)} if answers.exists() else {}
    for one in asked:
        (messages,) = one["question"]
        told = {message["role"]: message["content"] for message in messages}
        calls = [Expected(n, a) for call in truths.get(one["id"], ()) for n, a in call.items()]
        steps = [Step(calls, [""] * len(calls))] if calls else []
        tools = [as_tool(function) for function in one["function"]]
        turns = [Turn(told["user"], steps)]
        yield Question(one["id"], category, tools, turns, told.get("system", ""))


def lines(file: Path) -> list[Json]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines() if line.strip()]


def as_tool(function: Json) -> Json:
    return {
        "type": "function",
        "function": function | {"parameters": _typed(function["parameters"])},
    }


def _typed(schema: Any) -> Any:
    """`schema` with JSON Schema's names of types, at every depth."""
    if isinstance(schema, list):
        return [_typed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    typed = {key: _typed(value) for key, value in schema.items()}
    if isinstance(kind := typed.get("type"), str):
        typed["type"] = _TYPES.get(kind, kind)
    return typed
