"""Grammars: what may be said under one parses and fits; what can't be honoured is refused."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import qwen3_mlx
from qwen3_mlx.errors import OptionError
from qwen3_mlx.text import Tokenizer
from qwen3_mlx.text.grammar import (
    Grammar,
    Vocabulary,
    either,
    json_rule,
    regex_grammar,
    schema_grammar,
)
from tests.text import schemas

DEMO = Path(qwen3_mlx.__file__).parent / "demo"


class Words:
    """A tokenizer and its vocabulary."""

    def __init__(self, folder: Path, rows: int) -> None:
        self.tokenizer = Tokenizer.from_dir(folder)
        self.vocabulary = Vocabulary(self.tokenizer, rows)
        self.eos = set(self.vocabulary.eos)

    def text(self, ids: list[int]) -> str:
        return b"".join(map(self.tokenizer.id_to_bytes, ids)).decode()

    def fits(self, grammar: Grammar, text: str) -> bool:
        """Whether `text` is a whole answer, token by token as the tokenizer spells it."""
        match = self.vocabulary.match(grammar)
        took = all(match.take(token) for token in self.tokenizer.encode(text))
        return took and (match.ended or bool(self.eos & set(schemas.allowed(match))))


@pytest.fixture(scope="module")
def demo() -> Words:
    return Words(DEMO, 2048)


@pytest.fixture(scope="module", params=["demo", "real"])
def words(request: pytest.FixtureRequest) -> Iterator[Words]:
    if request.param == "demo":
        yield request.getfixturevalue("demo")
    else:
        yield Words(request.getfixturevalue("qwen3_files"), 151_936)


def test_random_answers_fit_random_schemas(words: Words) -> None:
    rng, whole, told = random.Random(7), 0, 0
    for _ in range(60 if words.vocabulary.rows < 10_000 else 15):
        schema = schemas.schema(rng)
        try:
            match = words.vocabulary.match(schema_grammar(schema))
        except OptionError as refused:  # a choice among unsatisfiable ones
            assert "can't be honoured" in str(refused), schema
            told += 1
            continue
        ids = schemas.walk(match, words.eos, rng)
        if len(ids) == schemas.MOST_TOKENS:  # a recursion that went on and on
            continue
        jsonschema.validate(json.loads(words.text(ids)), schema)
        whole += 1
    assert whole > 5 * told


ANY = {"type": "object"}
POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer"}, "y": {"type": "integer"}},
    "required": ["x"],
}


@pytest.mark.parametrize(
    ("schema", "text", "fits"),
    [
        (ANY, '{"a": {"b": [1, -2.5e+3, null, true, "x"]}}', True),
        (ANY, "{}", True),
        (ANY, '{"a": 1', False),
        (ANY, "[1]", False),
        (ANY, '{"a":  1}', False),
        (ANY, '{"a": 1}\n', False),
        (ANY, '{"a": "\\u0041"}', False),
        (ANY, '{"a": "<think>"}', False),  # a marker is no text
        (POINT, '{"x": 1, "y": 2}', True),
        (POINT, '{"x": 1, "z": "more"}', True),
        (POINT, '{"x": 1, "x": "again"}', False),
        (POINT, '{"x": 1, "\\u0078": "again"}', False),
        (POINT, '{"y": 2}', False),
        ({}, '"any"', True),
        ({"const": "\u0001"}, '"\\u0001"', True),
        ({"const": "tab\there"}, '"tab\\there"', True),
        ({"type": "integer"}, "007", False),
        ({"type": "string", "maxLength": 2}, '"日本"', True),
        ({"type": "string", "maxLength": 2}, '"日本語"', False),
        ({"type": "string", "maxLength": 2}, '"👩🎉"', True),
        ({"anyOf": [{"type": "null"}, {"const": 3}]}, "3", True),
        ({"oneOf": [{"type": "null"}, {"type": "string"}]}, '"a"', True),
        # What restricts nothing is no reason to refuse a schema; nor is a name like a keyword.
        ({"type": "string", "format": "colour"}, '"a"', True),
        ({"type": "string", "format": "date"}, '"a"', False),
        ({"type": "array", "uniqueItems": False}, "[1, 1]", True),
        ({"type": "object", "dependentRequired": {}, "properties": {}}, "{}", True),
        ({"required": ["format"], "properties": {"format": {"const": 5}}}, '{"format": 5}', True),
        ({"const": 2**53}, "9007199254740992", True),
        # Bounds between two 64-bit floats are narrowed: never exceeded, and never refused.
        ({"type": "integer", "maximum": 2**63 - 1}, "9223372036854774784", True),
        ({"type": "integer", "maximum": 2**63 - 1}, "9223372036854775808", False),
        ({"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}, "-9", True),
        ({"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}, f"{-(2**63) - 1}", False),
        ({"type": "integer", "minimum": 0, "maximum": 2**64 - 1}, "9223372036854775807", True),
        ({"type": "integer", "minimum": 0, "maximum": 2**64 - 1}, "18446744073709551616", False),
        ({"type": "integer", "exclusiveMinimum": 2**53 + 1}, "9007199254740993", False),
        ({"type": "integer", "exclusiveMinimum": 2**53 + 1}, "9007199254740996", True),
        ({"const": 1, "default": 2**60}, "1", True),
    ],
)
def test_what_fits_a_schema(words: Words, schema: dict[str, Any], text: str, fits: bool) -> None:
    assert words.fits(schema_grammar(schema), text) is fits


def test_every_end_token_ends_an_answer_and_blanks_cannot_go_on(words: Words) -> None:
    match = words.vocabulary.match(schema_grammar({"type": "array"}))
    for token in words.tokenizer.encode("[1"):
        assert match.take(token)
    assert not words.eos & set(schemas.allowed(match))
    spoken = {words.text([t]) for t in schemas.allowed(match) if t < words.tokenizer.vocab_size}
    assert not {" ", "\n", "  ", "\t"} & spoken
    assert match.take(words.tokenizer.encode("]")[0])
    assert match.ended and set(schemas.allowed(match)) == words.eos


def test_forced_tokens_are_the_only_ones_that_may_be_drawn(words: Words) -> None:
    schema = {
        "type": "object",
        "properties": {"e\u0301": {"enum": ["one", "other"]}, "b": {"const": "<|im_end|>"}},
        "required": ["e\u0301", "b"],
        "additionalProperties": False,
    }
    whole = '{"e\u0301": "one", "b": "<|im_end|>"}'
    ids, forced, drawn = words.tokenizer.encode_exactly(whole), 0, 0
    assert words.text(ids) == whole
    match = words.vocabulary.match(schema_grammar(schema))
    while ids:
        run = match.forced()
        for token in run:
            assert schemas.allowed(match) == [token] == ids[:1]
            assert match.take(ids.pop(0))
            forced += 1
        assert not match.ended  # what completes the answer is drawn
        drawn += match.take(ids.pop(0))
    assert match.ended and (drawn, forced > 10) == (2, True)  # the choice, and the last


def test_a_copy_goes_its_own_way(demo: Words) -> None:
    match = demo.vocabulary.match(schema_grammar({"enum": [12, 13]}))
    one, two = match.copy(), match.copy()
    for mine, text in ((one, "12"), (two, "13")):
        assert all(mine.take(token) for token in demo.tokenizer.encode(text))
        assert mine.ended
    assert not match.ended and not one.take(demo.tokenizer.encode("1")[0])


def test_patterns_and_choices_of_two(demo: Words) -> None:
    digits = regex_grammar("[0-9]{2}/(?:yes|no)")
    assert demo.fits(digits, "12/yes") and not demo.fits(digits, "1/yes")
    both = either(schema_grammar({"const": 1}), regex_grammar("maybe|no"))
    assert demo.fits(both, "1") and demo.fits(both, "maybe") and not demo.fits(both, "yes")


def nested(levels: int, kind: str = "items") -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema} if kind == "items" else {"anyOf": [schema]}
    return schema


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (nested(10_000), "nested too deeply|recursion limit"),
        (nested(1_000, "anyOf"), "nested too deeply|recursion limit"),
        ({"not": {"type": "string"}}, "not"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"if": {"type": "string"}, "then": {"minLength": 3}}, "if"),
        ({"type": "integer", "minimum": 3, "maximum": 1}, "minimum"),
        ({"allOf": [{"type": "integer"}, {"type": "string"}]}, "incompatible"),
        ({"enum": []}, "empty"),
        ({"$ref": "#"}, "no answer"),
        ({"$ref": "#/$defs/none"}, "does not exist"),
        ({"$ref": "https://example.com/schema"}, "example.com"),
        ({"type": "number of"}, "number of"),
        ({"type": "string", "pattern": "("}, "unclosed group"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"const": "\ud800"}, r"schema: got a lone surrogate at character 0 of '\\ud800'"),
        ({"properties": {"ab\udfff": {}}}, "schema: got a lone surrogate at character 2"),
        ({"type": "string", "pattern": "\ud800"}, "schema: got a lone surrogate"),
        ({"enum": [f"item {n}" for n in range(100_000)]}, "too big"),
        ({"x-guidance": {"lenient": True}, "not": {}}, "not"),
        ({"enum": [1137283948271394827]}, "enum with 1137283948271394827, expected whole numbers"),
        ({"properties": {"id": {"const": {"a": [-(2**53) - 1]}}}}, "const with -9007199254740993"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_honoured_is_refused(
    demo: Words, schema: dict[str, Any], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(OptionError, match=said) as refused:
        demo.vocabulary.match(schema_grammar(schema))
    assert len(str(refused.value)) < 1_500
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("pattern", ["(", "(?=a)b", "\\p{Nope}", "a\ud800"])
def test_patterns_that_cannot_be_honoured(demo: Words, pattern: str) -> None:
    with pytest.raises(OptionError, match="regex"):
        demo.vocabulary.match(regex_grammar(pattern))


def test_large_but_finite_schemas_are_taken(demo: Words) -> None:
    names = {"enum": [f"item {n}" for n in range(2_000)]}
    assert demo.fits(schema_grammar(names), '"item 1999"')
    assert not demo.fits(schema_grammar(names), '"item 2000"')
    deep = nested(30)
    assert demo.fits(schema_grammar(deep), "[" * 30 + "5" + "]" * 30)


def test_a_recursion_without_end_is_no_answer(demo: Words) -> None:
    endless = {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}
    match = demo.vocabulary.match(schema_grammar(endless))
    with pytest.raises(OptionError, match="no answer satisfies it"):
        for token in demo.tokenizer.encode('{"a": {"a": {"a": '):
            match.take(token)
            assert not match.ended


def test_a_number_that_would_be_rounded_is_left_out_where_a_schema_is_held_in_part() -> None:
    schema = {"properties": {"id": {"type": "integer", "enum": [2**60]}}}
    assert "enum" not in json_rule(schema, "the schema of the tool f", lenient=True)


def test_one_of_several_forms_is_refused_with_what_can_be_done() -> None:
    """The hint was of an option of the library below, which nobody here can set."""
    forms = [{"type": "object", "properties": {name: {}}, "required": [name]} for name in "ab"]
    with pytest.raises(OptionError, match="can't be honoured: got oneOf of forms") as refused:
        schema_grammar({"oneOf": forms})
    assert "anyOf" in str(refused.value.hint) and "coerce" not in str(refused.value)
    apart = [form["properties"] | {"kind": {"const": form["required"][0]}} for form in forms]
    schema_grammar(
        {"oneOf": [{"type": "object", "properties": p, "required": ["kind"]} for p in apart]}
    )
