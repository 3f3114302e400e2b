"""What a Python function returned, as text for the model."""

from __future__ import annotations

import dataclasses
import enum
import itertools
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from qwen3_mlx.errors import shown

MOST_ITEMS = 100_000
"""The most items taken from an iterator, which may have no end: more than a model ever reads."""


def as_text(value: Any) -> str:
    """`value` itself if it is text, else as JSON; what has no JSON form as Python prints it.

    Models and dataclasses become objects, enum members their values, arrays, sets and whatever
    a generator yields lists, tables lists of their rows. Raises what the generator raises, and
    `ValueError` for one with more than `MOST_ITEMS` items.
    """
    if isinstance(value, str):
        return str(value.value) if isinstance(value, enum.Enum) else value
    if isinstance(value, Iterator):
        value = _items(value)
    try:
        return json.dumps(_plain(value), ensure_ascii=False)
    except Exception:  # a circle, or a value whose own methods raise anything
        return shown(value, str)


def _items(values: Iterable[Any]) -> list[Any]:
    found = list(itertools.islice(values, MOST_ITEMS + 1))
    if len(found) > MOST_ITEMS:
        raise ValueError(f"it yields more than {MOST_ITEMS:,} items")
    return found


def _plain(value: Any) -> Any:
    """`value` made of JSON's types; the text of what has no JSON form."""
    if isinstance(value, enum.Enum):
        return _plain(value.value)
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, bytes | bytearray | memoryview | type):
        return str(value)
    if hasattr(value, "model_dump"):  # a pydantic model
        return value.model_dump(mode="json")
    if hasattr(value, "tolist"):  # numpy's arrays and numbers, and MLX's
        return _plain(value.tolist())
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        return {field.name: _plain(getattr(value, field.name)) for field in fields}
    if isinstance(value, Mapping):
        return {_key(key): _plain(one) for key, one in value.items()}
    if isinstance(value, Iterator):
        return [_plain(one) for one in _items(value)]
    if isinstance(value, Collection):
        return [_plain(one) for one in _rows(value)]
    return str(value)


def _rows(value: Collection[Any]) -> Iterable[Any]:
    """What `value` holds: of a table, which would tell its columns' names alone, the rows."""
    for name, given in (("to_pylist", ()), ("to_dicts", ()), ("to_dict", ("records",))):
        rows = getattr(value, name, None)  # pyarrow's, polars', pandas'
        if callable(rows):
            found: Iterable[Any] = rows(*given)
            return found
    return value


def _key(key: Any) -> Any:
    plain = _plain(key)
    return plain if plain is None or isinstance(plain, str | int | float) else str(key)
