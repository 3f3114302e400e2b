"""What a sample of mutants survived in the reading of tool calls."""

from __future__ import annotations

import pytest

from qwen3_mlx.text.argument_types import ArgumentTypes


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
