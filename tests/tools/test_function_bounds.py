"""Bounds in a tool's annotations: told to the model, and held to when it calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import jsonschema
import pytest

from qwen3_mlx.tools.agent import tool_of
from qwen3_mlx.tools.function_arguments import converted
from qwen3_mlx.tools.function_schema import schema_of
from qwen3_mlx.tools.tool import Cancel


@dataclass
class Note:
    """As annotated-types' are, which have one or several of these; the others are None."""

    ge: Any = None
    gt: Any = None
    le: Any = None
    lt: Any = None
    multiple_of: Any = None
    min_length: Any = None
    max_length: Any = None
    pattern: Any = None


@dataclass
class Field:
    """As pydantic's Field is."""

    description: str | None = None
    metadata: list[Any] = field(default_factory=list)


CASES: list[tuple[Any, dict[str, Any], list[Any], list[Any]]] = [
    (Annotated[int, Note(ge=1)], {"type": "integer", "minimum": 1}, [1, 7], [0, -3]),
    (Annotated[int, Note(gt=1)], {"type": "integer", "exclusiveMinimum": 1}, [2], [1, 0]),
    (Annotated[float, Note(le=0.5)], {"type": "number", "maximum": 0.5}, [0.5, -1], [0.51, 1]),
    (Annotated[float, Note(lt=0.5)], {"type": "number", "exclusiveMaximum": 0.5}, [0.4], [0.5]),
    (
        Annotated[float, Note(multiple_of=0.1)],
        {"type": "number", "multipleOf": 0.1},
        [0.3, 1],
        [0.25],
    ),
    (
        Annotated[int, Note(ge=1, lt=9)],
        {"type": "integer", "minimum": 1, "exclusiveMaximum": 9},
        [1, 8],
        [0, 9],
    ),
    (
        Annotated[str, Note(min_length=1, max_length=3)],
        {"type": "string", "minLength": 1, "maxLength": 3},
        ["a", "abc"],
        ["", "abcd"],
    ),
    (
        Annotated[str, Note(pattern="^[a-z]+$")],
        {"type": "string", "pattern": "^[a-z]+$"},
        ["ab"],
        ["A", ""],
    ),
    (
        Annotated[list[int], Note(max_length=2)],
        {"type": "array", "items": {"type": "integer"}, "maxItems": 2},
        [[], [1, 2]],
        [[1, 2, 3]],
    ),
    (
        list[Annotated[int, Note(ge=0)]],
        {"type": "array", "items": {"type": "integer", "minimum": 0}},
        [[0, 1]],
        [[0, -1]],
    ),
    (
        Annotated[int, Field("How many.", [Note(ge=1), Note(le=5)])],
        {"type": "integer", "description": "How many.", "minimum": 1, "maximum": 5},
        [1, 5],
        [0, 6],
    ),
    (Annotated[int, "ge", object()], {"type": "integer", "description": "ge"}, [-9], []),
]


@pytest.mark.parametrize(("hint", "schema", "right", "wrong"), CASES)
def test_bounds_are_told_and_held_to(
    hint: Any, schema: dict[str, Any], right: list[Any], wrong: list[Any]
) -> None:
    def f(a: Any) -> Any: ...

    f.__annotations__ = {"a": hint}
    _, found = schema_of(f)
    assert found["properties"]["a"] == schema
    jsonschema.Draft202012Validator.check_schema(found)
    for given in right:
        assert converted(f, {"a": given})["a"] == given
    for given in wrong:
        with pytest.raises(ValueError, match=r"^a(\[\d\])? is .*: expected "):
            converted(f, {"a": given})


def test_none_is_within_the_bounds_of_an_optional_number() -> None:
    def f(a: Annotated[int | None, Note(ge=1)] = None) -> None: ...

    assert converted(f, {"a": None}) == {"a": None}
    with pytest.raises(ValueError, match="expected ge 1"):
        converted(f, {"a": 0})


def test_a_call_beyond_them_is_a_failed_one_that_says_why() -> None:
    def roll(dice: Annotated[int, Note(ge=1, le=6)]) -> str:
        return f"{dice} rolled"

    tool = tool_of(roll)
    assert tool.run({"dice": 3}, Cancel()).text == "3 rolled"
    result = tool.run({"dice": 7}, Cancel())
    assert result.failed and result.text == "ValueError: dice is 7: expected le 6"


def test_those_of_pydantic_and_of_annotated_types() -> None:
    pydantic = pytest.importorskip("pydantic", reason="pydantic isn't installed")
    types = pytest.importorskip("annotated_types", reason="annotated_types isn't installed")

    def f(a: Any, b: Any, c: Any) -> Any: ...

    f.__annotations__ = {
        "a": Annotated[int, pydantic.Field(ge=1, lt=4, description="One to three.")],
        "b": Annotated[str, pydantic.Field(max_length=2, pattern="^x")],
        "c": Annotated[float, types.Interval(gt=0, le=1)],
    }
    _, found = schema_of(f)
    a, b, c = found["properties"].values()
    told = {"type": "integer", "minimum": 1, "exclusiveMaximum": 4, "description": "One to three."}
    assert a == told
    assert b == {"type": "string", "maxLength": 2, "pattern": "^x"}
    assert c == {"type": "number", "exclusiveMinimum": 0, "maximum": 1}
    assert converted(f, {"a": 3, "b": "xy", "c": 1.0}) == {"a": 3, "b": "xy", "c": 1.0}
    for wrong in ({"a": 4}, {"b": "y"}, {"b": "xyz"}, {"c": 0.0}):
        with pytest.raises(ValueError, match="expected"):
            converted(f, {"a": 3, "b": "xy", "c": 1.0} | wrong)
    f.__annotations__["a"] = list[Annotated[int, pydantic.Field(ge=1)]]
    assert converted(f, {"a": [1], "b": "x", "c": 1.0})["a"] == [1]
    with pytest.raises(ValueError, match=r"a\[1\] is 0: expected ge 1"):
        converted(f, {"a": [1, 0], "b": "x", "c": 1.0})
