"""A function's signature, annotations and docstring as a schema, and arguments converted."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypedDict

import jsonschema
import pytest

from qwen3_mlx.errors import OptionError
from qwen3_mlx.tools.function_arguments import converted
from qwen3_mlx.tools.function_schema import schema_of


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Point:
    x: int
    y: float = 0.0


class Place(TypedDict):
    name: str


CASES: list[tuple[Any, dict[str, Any], Any, Any, Any]] = [
    (str, {"type": "string"}, "a", "a", 3),
    (int, {"type": "integer"}, 3.0, 3, 3.5),
    (float, {"type": "number"}, 3, 3.0, "3"),
    (bool, {"type": "boolean"}, True, True, 1),
    (list[int], {"type": "array", "items": {"type": "integer"}}, [1], [1], [1, "b"]),
    (Sequence[str], {"type": "array", "items": {"type": "string"}}, ["a"], ["a"], "a"),
    (set[int], {"type": "array", "items": {"type": "integer"}}, [1, 1], {1}, 1),
    (dict[str, int], {"type": "object", "additionalProperties": {"type": "integer"}},
     {"a": 1}, {"a": 1}, {"a": "b"}),
    (dict, {"type": "object"}, {"a": 1}, {"a": 1}, None),
    (int | None, {"anyOf": [{"type": "integer"}, {"type": "null"}]}, None, None, "x"),
    (Literal["a", "b"], {"type": "string", "enum": ["a", "b"]}, "b", "b", "c"),
    (Color, {"type": "string", "enum": ["red", "blue"]}, "red", Color.RED, "green"),
    (Point, {"type": "object", "properties": {"x": {"type": "integer"}, "y": {"type": "number"}},
             "required": ["x"]}, {"x": 1}, Point(1), {"y": 1}),
    (Place, {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
     {"name": "A"}, {"name": "A"}, {}),
    (Annotated[int, "how many"], {"type": "integer", "description": "how many"}, 1, 1, "1"),
    (Any, {}, [1], [1], ...),
]  # fmt: skip


@pytest.mark.parametrize(("hint", "schema", "given", "want", "wrong"), CASES)
def test_annotations(hint: Any, schema: dict[str, Any], given: Any, want: Any, wrong: Any) -> None:
    def f(a: Any) -> Any:
        return a

    f.__annotations__ = {"a": hint}
    _, found = schema_of(f)
    assert found == {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    jsonschema.Draft202012Validator.check_schema(found)
    jsonschema.validate({"a": given}, found)
    made = converted(f, {"a": given})["a"]
    assert made == want and type(made) is type(want)
    if wrong is not ...:
        with pytest.raises(ValueError, match="a"):
            converted(f, {"a": wrong})


def google(city: str, days: int = 3) -> str:
    """The weather.

    Args:
        city (str): where: in a town,
            or near it
        days: how many

    Returns:
        A text.
    """
    return ""


def numpy(city: str, days: int = 3) -> str:
    """The weather.

    Parameters
    ----------
    city : str
        where: in a town,
        or near it
    days : int
        how many

    Returns
    -------
    str
        A text.
    """
    return ""


def sphinx(city: str, days: int = 3) -> str:
    """The weather.

    :param city: where: in a town,
        or near it
    :param int days: how many
    :returns: a text
    """
    return ""


@pytest.mark.parametrize("function", [google, numpy, sphinx])
def test_docstrings(function: Any) -> None:
    summary, schema = schema_of(function)
    assert summary == "The weather."
    texts = {name: one["description"] for name, one in schema["properties"].items()}
    assert texts == {"city": "where: in a town, or near it", "days": "how many"}
    assert schema["required"] == ["city"] and schema["properties"]["days"]["default"] == 3


def test_a_method_a_callable_and_a_bare_function() -> None:
    class Adder:
        def add(self, a: int) -> int:
            "Adds."
            return a

        def __call__(self, a: int) -> int:
            "Calls."
            return a

    assert schema_of(Adder().add)[1]["properties"] == {"a": {"type": "integer"}}
    assert schema_of(Adder())[1]["properties"] == {"a": {"type": "integer"}}
    assert schema_of(lambda a: a)[1]["properties"] == {"a": {}}


def test_what_no_schema_can_say_is_refused() -> None:
    def many(*a: int) -> None: ...
    def positional(a: int, /) -> None: ...
    def odd(a: complex) -> None: ...
    def unknown(a: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    for function in (many, positional, odd, unknown, 3):
        with pytest.raises(OptionError):
            schema_of(function)  # type: ignore[arg-type]


def test_pydantic_models() -> None:
    pydantic = pytest.importorskip("pydantic", reason="pydantic isn't installed")
    inner = pydantic.create_model("Inner", n=(int, ...))
    outer = pydantic.create_model("Outer", inner=(inner, ...))

    def f(a: Any) -> Any:
        return a

    f.__annotations__ = {"a": outer}
    _, schema = schema_of(f)
    jsonschema.validate({"a": {"inner": {"n": 1}}}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"a": {"inner": {"n": "x"}}}, schema)
    assert converted(f, {"a": {"inner": {"n": 1}}})["a"].inner.n == 1
    with pytest.raises(ValueError, match="inner"):
        converted(f, {"a": {}})
