"""A function's signature, annotations and docstring as a schema, and arguments converted."""

from __future__ import annotations

import enum
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import InitVar, dataclass, field
from typing import Annotated, Any, ClassVar, Literal, NewType, NotRequired, Required, TypedDict

import jsonschema
import pytest

from qwen3_mlx.errors import OptionError
from qwen3_mlx.tools.function_arguments import converted
from qwen3_mlx.tools.function_schema import name_of, schema_of


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Point:
    x: int
    y: float = 0.0


class Place(TypedDict):
    name: str


class Partly(TypedDict, total=False):
    name: Required[str]
    size: int


class Wholly(TypedDict):
    name: str
    size: NotRequired[int]


@dataclass
class Described:
    "As pydantic's Field is."

    description: str


@dataclass
class Tree:
    value: int
    kids: list[Tree] = field(default_factory=list)


class Chain(TypedDict):
    next: Chain | None


Number = NewType("Number", int)


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
    (Annotated[int, Described("how many")], {"type": "integer", "description": "how many"},
     1, 1, "1"),
    (Number, {"type": "integer"}, 1, 1, "1"),
    (list[Number], {"type": "array", "items": {"type": "integer"}}, [1], [1], ["1"]),
    (Partly, {"type": "object", "properties": {"name": {"type": "string"}, "size":
              {"type": "integer"}}, "required": ["name"]}, {"name": "A", "size": 1.0},
     {"name": "A", "size": 1}, {"size": 1}),
    (Wholly, {"type": "object", "properties": {"name": {"type": "string"}, "size":
              {"type": "integer"}}, "required": ["name"]}, {"name": "A"}, {"name": "A"},
     {"size": 1}),
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


def test_a_class_within_itself_is_a_reference() -> None:
    def f(tree: Tree, chain: Chain, again: dict[str, Tree]) -> None: ...

    _, found = schema_of(f)
    jsonschema.Draft202012Validator.check_schema(found)
    given: dict[str, Any] = {"tree": {"value": 1, "kids": [{"value": 2}]}, "again": {}}
    given["chain"] = {"next": {"next": None}}
    jsonschema.validate(given, found)
    assert converted(f, given) == given | {"tree": Tree(1, [Tree(2)])}
    for wrong in ({"tree": {"value": 1, "kids": [{}]}}, {"chain": {"next": {"next": 3}}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(given | wrong, found)


def test_a_class_that_isnt_known_at_run_time_is_refused() -> None:
    @dataclass
    class Local:
        kids: list[Local]

    def f(a: Any) -> None: ...

    f.__annotations__ = {"a": Local}
    with pytest.raises(OptionError, match="an annotation of Local that isn't defined here: Local"):
        schema_of(f)


def test_aliases() -> None:
    extensions = pytest.importorskip("typing_extensions", reason="typing's own are of Python 3.12")

    def f(a: Any) -> None: ...

    f.__annotations__ = {"a": extensions.TypeAliasType("Ints", list[int])}
    assert schema_of(f)[1]["properties"]["a"] == {"type": "array", "items": {"type": "integer"}}
    assert converted(f, {"a": [1.0]}) == {"a": [1]}

    class Endless:
        "As ``type Endless = list[Endless]`` is."

    Endless.__name__ = "TypeAliasType"
    endless: Any = Endless()
    endless.__value__ = list[endless]
    f.__annotations__ = {"a": endless}
    with pytest.raises(OptionError, match=r"the annotation .*, expected a JSON form"):
        schema_of(f)


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


def test_a_partial_function_is_the_function() -> None:
    bound = functools.partial(functools.partial(google, days=4))
    summary, schema = schema_of(bound)
    assert (name_of(bound), summary) == ("google", "The weather.")
    assert schema["properties"]["city"]["type"] == "string"
    with pytest.raises(ValueError, match="city is 3"):
        converted(bound, {"city": 3})


def test_a_class_is_a_function_of_its_fields() -> None:
    assert schema_of(Point)[1]["properties"]["x"] == {"type": "integer"}
    assert converted(Point, {"x": 1.0}) == {"x": 1}


@pytest.mark.parametrize("default", [math.nan, math.inf])
def test_a_default_that_json_lacks_is_left_out(default: float) -> None:
    def f(a: float = default) -> None: ...

    assert schema_of(f)[1] == {
        "type": "object",
        "properties": {"a": {"type": "number"}},
        "required": [],
    }


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


def test_a_model_that_json_has_no_form_for_is_refused() -> None:
    pydantic = pytest.importorskip("pydantic", reason="pydantic isn't installed")
    odd = pydantic.create_model("Odd", call=(Callable[[], None], ...))

    def f(a: Any) -> None: ...

    f.__annotations__ = {"a": odd}
    with pytest.raises(OptionError, match=r"the tool's parameter f\(a\): .*Odd.*\nhint: .*Call"):
        schema_of(f)


@dataclass
class Order:
    item: str
    kind: ClassVar[str] = "order"
    total: int = field(init=False, default=0)
    price: InitVar[int] = 2
    more: list[int] = field(default_factory=list)

    def __post_init__(self, price: int) -> None:
        self.total = price


def test_a_dataclass_is_made_of_what_its_constructor_takes() -> None:
    def buy(order: Order) -> int:
        return order.total

    schema = schema_of(buy)[1]["properties"]["order"]
    assert sorted(schema["properties"]) == ["item", "more", "price"]
    assert schema["properties"]["price"] == {"type": "integer"}
    assert schema["required"] == ["item"]
    assert converted(buy, {"order": {"item": "tea", "price": 5}})["order"].total == 5
    for name in ("kind", "total"):
        with pytest.raises(ValueError, match=f"order has no '{name}'"):
            converted(buy, {"order": {"item": "tea", name: 1}})


def test_a_literal_is_the_value_that_was_written() -> None:
    def paint(color: Literal[Color.RED, 1, "1"]) -> str:
        return str(color)

    assert schema_of(paint)[1]["properties"]["color"] == {"enum": ["red", 1, "1"]}
    assert converted(paint, {"color": "red"}) == {"color": Color.RED}
    assert converted(paint, {"color": 1}) == {"color": 1}
    for wrong in (True, "blue", None):
        with pytest.raises(ValueError, match="none of"):
            converted(paint, {"color": wrong})


class Weights(enum.Enum):
    LIGHT = (1, 2)


@pytest.mark.parametrize("hint", [Literal[b"x"], Weights, enum.Enum], ids=str)
def test_a_choice_that_json_has_no_form_for_is_refused(hint: Any) -> None:
    def choose(one: Any) -> str:
        return str(one)

    choose.__annotations__["one"] = hint
    with pytest.raises(OptionError, match=r"parameter choose\(one\): got the annotation"):
        schema_of(choose)
