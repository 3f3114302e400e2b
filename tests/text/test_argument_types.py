"""Limits within which a parameter's text is converted to the type in its schema."""

from __future__ import annotations

from typing import Any

import pytest

from qwen3_mlx.text.argument_types import ArgumentTypes


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("n", "9" * 4299, int),
        ("n", "9" * 4300, str),  # Python makes no number of more digits
        ("list", f"['{'a' * 99_995}']", list),
        ("list", f"['{'a' * 99_996}']", str),  # 100,000 characters are read as JSON only
        ("list", f'["{"a" * 99_996}"]', list),
    ],
    ids=["long number", "longer", "long literal", "longer literal", "long JSON"],
)
def test_values_of_great_length(name: str, text: str, kind: type) -> None:
    types = ArgumentTypes({"properties": {"n": {"type": "integer"}, "list": {"type": "array"}}})
    assert type(types.value(name, text)) is kind


def referring(links: int) -> dict[str, Any]:
    """A schema whose parameter `a` is a text, by so many references, one to the next."""
    defs: dict[str, Any] = {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(links - 1)}
    defs[f"d{links - 1}"] = {"type": "string"}
    return {"$defs": defs, "properties": {"a": {"$ref": "#/$defs/d0"}}}


def combined(levels: int, word: str) -> dict[str, Any]:
    """A schema whose parameter `a` is a text, within so many combined schemas."""
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {word: [schema]}
    return {"properties": {"a": schema}}


def inherited(levels: int, word: str) -> dict[str, Any]:
    """A schema within so many combined schemas, whose parameter `a` is a text."""
    schema: dict[str, Any] = {"properties": {"a": {"type": "string"}}}
    for _ in range(levels):
        schema = {word: [schema]}
    return schema


@pytest.mark.parametrize(
    ("schema", "known"),
    [
        (referring(31), True),
        (referring(32), False),
        *((combined(32, word), True) for word in ("anyOf", "oneOf", "allOf")),
        *((combined(33, word), False) for word in ("anyOf", "oneOf", "allOf")),
        *((inherited(32, word), True) for word in ("anyOf", "oneOf", "allOf")),
        *((inherited(33, word), False) for word in ("anyOf", "oneOf", "allOf")),
    ],
)
def test_types_are_looked_for_so_deep_and_no_deeper(schema: dict[str, Any], known: bool) -> None:
    """A type that is found keeps "5" a text; without one it is a number."""
    types = ArgumentTypes(schema)
    assert types.value("a", "5") == ("5" if known else 5)
    assert types.streams("a") is known
