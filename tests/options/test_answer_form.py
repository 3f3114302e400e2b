"""What is no schema is refused in words that say what was given, and what to give instead."""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from qwen3_mlx import GenerationOptions
from qwen3_mlx.errors import OptionError
from qwen3_mlx.options.answer_form import plain_schema


@dataclass
class Point:
    x: int


@pytest.mark.parametrize("given", [int, list[int], int | None, Literal["a"], Point], ids=repr)
def test_a_type_of_pythons_is_pointed_to_its_schema(given: Any) -> None:
    with pytest.raises(OptionError) as found:
        GenerationOptions(schema=given)
    assert found.value.got == repr(given)
    assert found.value.hint is not None and "pydantic.TypeAdapter" in found.value.hint


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"type": int}, "JSON has no form for <class 'int'>"),
        ({"properties": {"a": {"enum": {1, 2}}}}, "JSON has no form for {1, 2}"),
        ({"const": Point(1)}, "JSON has no form for Point(x=1)"),
        (object(), "JSON has no form for <object"),
    ],
)
def test_what_json_lacks_is_shown(given: Any, said: str) -> None:
    with pytest.raises(OptionError) as found:
        GenerationOptions(schema=given)
    assert str(found.value).startswith("schema: got ") and said in str(found.value.hint)


def test_a_mapping_of_another_kind_is_a_schema() -> None:
    inner = types.MappingProxyType({"type": "integer"})
    assert plain_schema(types.MappingProxyType({"items": inner})) == {"items": {"type": "integer"}}


def test_a_model_that_json_has_no_form_for_is_refused() -> None:
    pydantic = pytest.importorskip("pydantic", reason="pydantic isn't installed")
    odd = pydantic.create_model("Odd", call=(Callable[[], None], ...))
    with pytest.raises(OptionError, match=r"schema: got .*Odd.*\nhint: Cannot generate"):
        GenerationOptions(schema=odd)


def test_a_type_adapter_is_its_schema() -> None:
    pydantic = pytest.importorskip("pydantic")
    for kind in (int, Literal["a", "b"], Point, list[Point]):
        adapter = pydantic.TypeAdapter(kind)
        assert plain_schema(adapter) == adapter.json_schema()
