"""The JSON Schema of a Python function, from its signature, annotations and docstring.

Annotations may be pydantic models; pydantic itself is not imported here.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Annotated, Any, Literal, NotRequired, Required, Union, get_args, get_origin

from qwen3_mlx.errors import OptionError
from qwen3_mlx.tools.docstring import read_docstring
from qwen3_mlx.tools.function_bounds import bounded, bounds_of

Json = dict[str, Any]
PLAIN: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean"}
MISSING = inspect.Parameter.empty
LISTS = (list, tuple, set, frozenset, Sequence, Iterable, Set)


def schema_of(function: Callable[..., Any]) -> tuple[str, Json]:
    """The description and the parameters' JSON Schema of `function`.

    Raises `OptionError` for a parameter that no schema can describe: ``*args``, ``**kwargs``,
    positional-only, or an annotation without a JSON form.
    """
    summary, texts = read_docstring(whole_function(function))
    hints, definitions = hints_of(function), dict[str, Any]()
    properties: Json = {}
    required = []
    for name, parameter in parameters_of(function).items():
        hint, where = hints.get(name, Any), f"{name_of(function)}({name})"
        try:
            one = _schema(hint, where, definitions)
        except RecursionError:  # type Json = list[Json]
            raise _without_form(hint, where) from None
        if name in texts:
            one = {**one, "description": texts[name]}
        if parameter.default is inspect.Parameter.empty:
            required.append(name)
        elif _has_form(parameter.default):
            one = {**one, "default": parameter.default}
        properties[name] = one
    schema: Json = {"type": "object", "properties": properties, "required": required}
    return summary, schema | ({"$defs": definitions} if definitions else {})


def whole_function(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` without the arguments that `functools.partial` has bound."""
    while isinstance(function, functools.partial):
        function = function.func
    return function


def name_of(function: Callable[..., Any]) -> str:
    """The name by which the model calls `function`."""
    whole = whole_function(function)
    return getattr(whole, "__name__", type(whole).__name__)


def inner_hint(hint: Any) -> Any:
    """What `hint` stands for: the type of a NewType, an alias, a TypedDict's Required."""
    while True:
        if isinstance(hint, typing.NewType):
            hint = hint.__supertype__
        elif type(hint).__name__ == "TypeAliasType":  # typing has it from Python 3.12 on
            hint = hint.__value__
        elif get_origin(hint) in (Required, NotRequired):
            hint = get_args(hint)[0]
        elif isinstance(hint, dataclasses.InitVar):
            hint = hint.type
        else:
            return hint


def plain_choice(value: Any) -> Any:
    """The value that a call has for one of a Literal's: a member of an Enum has its own."""
    return value.value if isinstance(value, enum.Enum) else value


def _has_form(value: Any) -> bool:
    """Whether a default can stand in a schema: a text, or a number that JSON has."""
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def parameters_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters by name. Raises `OptionError` for one that can't be passed by its name."""
    try:
        found = inspect.signature(function).parameters
    except (TypeError, ValueError):
        raise OptionError("a tool", got=repr(function), expected="a Python function") from None
    for parameter in found.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise OptionError(
                f"the tool {name_of(function)}",
                got=f"the parameter {parameter}",
                expected="parameters that have a name each",
            )
    return dict(found)


def hints_of(function: Callable[..., Any]) -> Json:
    """The evaluated annotations by name. Raises `OptionError` for an undefined name in one."""
    whole: Any = whole_function(function)
    if isinstance(whole, type):
        return _evaluated(whole.__init__, whole.__name__)  # type: ignore[misc]
    target = whole if inspect.isroutine(whole) else type(whole).__call__
    return _evaluated(target, name_of(whole))


def _evaluated(target: Any, name: str) -> Json:
    try:
        return typing.get_type_hints(target, include_extras=True)
    except NameError as error:
        got = f"an annotation of {name} that isn't defined here: {error.name}"
        raise OptionError("a tool", got=got, expected="annotations known at run time") from None


def _schema(hint: Any, where: str, definitions: Json) -> Json:
    """The JSON Schema of one annotation; adds to `definitions`. Raises `OptionError`."""
    hint = inner_hint(hint)
    if get_origin(hint) is Annotated:
        inner, *notes = get_args(hint)
        # pydantic's Field has a description, typing_extensions' Doc a documentation
        said = [
            getattr(note, "description", getattr(note, "documentation", note)) for note in notes
        ]
        text = next((one for one in said if isinstance(one, str)), None)
        found = bounded(_schema(inner, where, definitions), bounds_of(notes))
        return found if text is None else {**found, "description": text}
    if hint in (Any, inspect.Parameter.empty, object):
        return {}
    if isinstance(hint, type) and hint in PLAIN:  # others may have no hash
        return {"type": PLAIN[hint]}
    if hint in (None, type(None)):
        return {"type": "null"}
    if isinstance(hint, type) and get_origin(hint) is None:
        return _class_schema(hint, where, definitions)
    return _generic_schema(hint, where, definitions)


def _generic_schema(hint: Any, where: str, definitions: Json) -> Json:
    origin, given = get_origin(hint), get_args(hint)
    if origin is Literal:
        return _choices(hint, [plain_choice(one) for one in given], where)
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema(one, where, definitions) for one in given]}
    if origin in LISTS:
        inner = [one for one in given if one is not Ellipsis]
        if origin is tuple and Ellipsis not in given and inner:
            items = [_schema(one, where, definitions) for one in inner]
            size = {"minItems": len(items), "maxItems": len(items)}
            return {"type": "array", "prefixItems": items, **size}
        return {"type": "array"} | (
            {"items": _schema(inner[0], where, definitions)} if inner else {}
        )
    if isinstance(origin, type) and issubclass(origin, Mapping):
        values = _schema(given[1], where, definitions) if len(given) == 2 else {}
        return {"type": "object"} | ({"additionalProperties": values} if values else {})
    raise _without_form(hint, where)


def _class_schema(hint: type, where: str, definitions: Json) -> Json:
    if issubclass(hint, enum.Enum):
        return _choices(hint, [member.value for member in hint], where)
    if hasattr(hint, "model_json_schema"):  # a pydantic model
        try:
            found = hint.model_json_schema()
        except RuntimeError as error:  # pydantic's, for a field that JSON has no form for
            raise _without_form(hint, where, str(error)) from None
        definitions.update(found.pop("$defs", {}))
        return dict(found)
    if dataclasses.is_dataclass(hint):
        parameters = inspect.signature(hint).parameters
        needed = [name for name in fields_of(hint) if parameters[name].default is MISSING]
        return _object(hint, needed, where, definitions)
    if typing.is_typeddict(hint):
        return _object(hint, sorted(required_keys(hint)), where, definitions)
    if hint in LISTS:
        return {"type": "array"}
    if hint in (dict, Mapping):
        return {"type": "object"}
    raise _without_form(hint, where)


def required_keys(hint: type) -> frozenset[str]:
    """The keys that a TypedDict must have; none for another class. Raises `OptionError`.

    Its own ``__required_keys__`` takes no account of Required in annotations that are texts.
    """
    keys = frozenset[str](getattr(hint, "__required_keys__", ()))
    if not typing.is_typeddict(hint):
        return keys
    kinds: Json = {name: get_origin(one) for name, one in _evaluated(hint, hint.__name__).items()}
    said = {name for name, kind in kinds.items() if kind is Required}
    return (keys - {name for name, kind in kinds.items() if kind is NotRequired}) | said


def fields_of(hint: type) -> Json:
    """The annotations of a TypedDict's keys, or of the fields that a dataclass is made from.

    Not those of ClassVars and of fields with ``init=False``. Raises `OptionError`.
    """
    hints = _evaluated(hint, hint.__name__)
    if not dataclasses.is_dataclass(hint):
        return hints
    parameters = inspect.signature(hint).parameters
    return {name: one for name, one in hints.items() if name in parameters}


def _object(hint: type, required: list[str], where: str, definitions: Json) -> Json:
    """The schema of a class's fields; that of a class within itself is a reference to it."""
    name = hint.__name__
    reference = {"$ref": f"#/$defs/{name}"}
    if name in definitions:
        return reference
    definitions[name] = {}  # under way: whoever names it within itself finds it here
    properties = {
        n: _schema(one, f"{where}.{n}", definitions) for n, one in fields_of(hint).items()
    }
    found = {"type": "object", "properties": properties, "required": required}
    if repr(reference) not in repr(properties):
        del definitions[name]
        return found
    definitions[name] = found
    return reference


def _choices(hint: Any, values: list[Any], where: str) -> Json:
    """An enum of `values`. Raises `OptionError` for none, and for what JSON has no form for."""
    if not values or not all(one is None or _has_form(one) for one in values):
        raise _without_form(hint, where)
    kinds = {PLAIN.get(type(value)) for value in values}
    kind = kinds.pop() if len(kinds) == 1 else None
    return ({"type": kind} if kind else {}) | {"enum": values}


def _without_form(hint: Any, where: str, why: str | None = None) -> OptionError:
    return OptionError(
        f"the tool's parameter {where}",
        got=f"the annotation {hint!r}",
        expected="a JSON form: str, int, float, bool, list, dict, Literal, Enum, dataclass",
        hint=why,
    )
