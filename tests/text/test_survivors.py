"""What a sample of mutants survived in the reading of tool calls."""

from __future__ import annotations

import pytest

from qwen3_mlx.text.argument_types import ArgumentTypes
from qwen3_mlx.text.loose_json import loose_values


@pytest.mark.parametrize(
    ("schema", "may"),
    [
        ({}, True),
        ({"type": "string"}, True),
        ({"type": ["integer", "string"]}, True),
        ({"type": "integer"}, False),
        ({"type": ["integer", "null"]}, False),
    ],
)
def test_what_may_be_text(schema: dict[str, object], may: bool) -> None:
    types = ArgumentTypes({"properties": {"a": schema}})
    assert types.may_be_text("a") is may


def test_an_array_whose_end_is_missing_behind_its_first_member() -> None:
    assert loose_values('[{"a": 1}') == [[{"a": 1}]]
    with pytest.raises(ValueError, match="cut off"):
        loose_values('{"a": "1"')


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (r"\u00e9f", "éf"),
        (r"\u00E9", "é"),
        (r"\u00e", r"\u00e"),  # no code point: a backslash that was not doubled
        (r"\u00eg", r"\u00eg"),
        (r"\n\t\"\\\/", '\n\t"\\/'),
        (r"C:\dir", r"C:\dir"),
    ],
)
def test_escapes_of_a_damaged_call_mean_what_they_mean_in_json(written: str, meant: str) -> None:
    assert loose_values(f'{{"a": "{written}",}}') == [{"a": meant}]
