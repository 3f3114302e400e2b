"""What a sample of mutants survived in the reading of tool calls."""

from __future__ import annotations

import pytest

from qwen3_mlx.text.argument_types import ArgumentTypes
from qwen3_mlx.text.loose_json import JsonScanner, loose_values


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


@pytest.mark.parametrize(
    ("pieces", "inside"),
    [
        ([], False),
        (['"'], True),
        (['{"a', '": "b'], True),
        (['{"a": "b"'], False),
        ([r'"a\"'], True),  # an escaped quote ends no string
        (['"a\\', '"'], True),
        ([r'"a\\"'], False),  # an escaped backslash escapes nothing
        (['\\"'], True),  # outside strings a backslash is no escape
    ],
)
def test_whether_a_piece_of_json_ends_inside_a_string(pieces: list[str], inside: bool) -> None:
    scanner = JsonScanner()
    for piece in pieces:
        scanner.push(piece)
    assert scanner.in_string is inside
