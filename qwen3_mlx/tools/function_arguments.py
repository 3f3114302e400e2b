"""Converts a call's JSON arguments to the types in a function's annotations."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from qwen3_mlx.tools.function_bounds import bounds_of, check_bounds
from qwen3_mlx.tools.function_schema import (
    LISTS,
    PLAIN,
    Json,
    fields_of,
    hints_of,
    inner_hint,
    parameters_of,
    plain_choice,
    required_keys,
)


def converted(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Json:
    """`arguments` converted to the annotated types. Raises `ValueError`, naming the invalid one."""
    parameters, hints = parameters_of(function), hints_of(function)
    if unknown := [name for name in arguments if name not in parameters]:
        raise ValueError(
            f"no parameter {unknown[0]!r}; there are {', '.join(parameters) or 'none'}"
        )
    for name, parameter in parameters.items():
        if name not in arguments and parameter.default is inspect.Parameter.empty:
            raise ValueError(f"{name} is missing")
    return {name: _convert(value, hints.get(name, Any), name) for name, value in arguments.items()}


def _convert(value: Any, hint: Any, where: str) -> Any:
    """The JSON `value` converted to the type `hint`. Raises `ValueError`, naming `where`."""
    hint = inner_hint(hint)
    if get_origin(hint) is Annotated:
        inner, *notes = get_args(hint)
        found = _convert(value, inner, where)
        check_bounds(found, bounds_of(notes), where)
        return found
    origin, given = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _first_that_fits(value, given, where)
    if hint in (None, type(None)) or (isinstance(hint, type) and hint in PLAIN):
        return _plain(value, hint, where)
    if origin is Literal:
        return _one_of(value, given, where)
    if isinstance(hint, type) and origin is None:
        return _instance(value, hint, where)
    if origin in LISTS:
        return _several(value, origin, given, where)
    if isinstance(origin, type) and issubclass(origin, Mapping) and len(given) == 2:
        if not isinstance(value, dict):
            raise ValueError(f"{where} is no object")
        return {key: _convert(one, given[1], f"{where}.{key}") for key, one in value.items()}
    return value


def _first_that_fits(value: Any, hints: tuple[Any, ...], where: str) -> Any:
    wrong = ""
    for hint in hints:
        try:
            return _convert(value, hint, where)
        except ValueError as error:
            wrong = wrong or str(error)
    raise ValueError(wrong)


def _plain(value: Any, hint: Any, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    kind = type(None) if hint is None else hint
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{where} is {value!r}, and not {PLAIN.get(hint, 'null')}")
    return value


def _one_of(value: Any, given: tuple[Any, ...], where: str) -> Any:
    """The one of a Literal's values that `value` is; True is not 1, though they are equal."""
    for one in given:
        choice = plain_choice(one)
        if choice == value and isinstance(choice, bool) is isinstance(value, bool):
            return one
    choices = [plain_choice(one) for one in given]
    raise ValueError(f"{where} is {value!r}, which is none of {choices}")


def _several(value: Any, origin: Any, given: tuple[Any, ...], where: str) -> Any:
    if not isinstance(value, list):
        raise ValueError(f"{where} is no list")
    fixed = origin is tuple and given and Ellipsis not in given
    if fixed and len(value) != len(given):
        raise ValueError(f"{where} has {len(value)} items, and not {len(given)}")
    hints = given if fixed else (given[:1] or (Any,)) * len(value)
    items = [
        _convert(one, h, f"{where}[{n}]")
        for n, (one, h) in enumerate(zip(value, hints, strict=False))
    ]
    return origin(items) if origin in (tuple, set, frozenset) else items


def _instance(value: Any, hint: type, where: str) -> Any:
    if issubclass(hint, enum.Enum):
        try:
            return hint(value)
        except ValueError:
            choices = [member.value for member in hint]
            raise ValueError(f"{where} is {value!r}, which is none of {choices}") from None
    if hasattr(hint, "model_validate"):
        return hint.model_validate(value)  # pydantic's ValidationError is a ValueError
    if dataclasses.is_dataclass(hint) or typing.is_typeddict(hint):
        return _fields(value, hint, where)
    if hint in LISTS:
        return _several(value, hint, (), where)
    if hint in (dict, Mapping) and not isinstance(value, dict):
        raise ValueError(f"{where} is no object")
    return value


def _fields(value: Any, hint: type, where: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is no object")
    hints = fields_of(hint)
    if unknown := [name for name in value if name not in hints]:
        raise ValueError(f"{where} has no {unknown[0]!r}")
    needed = required_keys(hint)
    if missing := [name for name in hints if name in needed and name not in value]:
        raise ValueError(f"{where}.{missing[0]} is missing")
    found = {name: _convert(one, hints[name], f"{where}.{name}") for name, one in value.items()}
    try:
        return hint(**found)
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from None
