"""Random JSON schemas that answers can follow, and random walks through a grammar."""

from __future__ import annotations

import random
from typing import Any

from qwen3_mlx.text.grammar import Match

WORDS = [
    "a",
    "name",
    "größe",
    "名前",
    "with space",
    'quo"te',
    "back\\slash",
    "🎉",
    "",
    "line\nbreak",
]
MOST_TOKENS = 400


def schema(rng: random.Random, depth: int = 3) -> dict[str, Any]:
    """A schema whose answers are finite: its arrays and texts have a greatest length."""
    leaves = [text, number, enum, const, nothing]
    branches = [thing, array, any_of, reference]
    return rng.choice(leaves if depth == 0 else leaves + 2 * branches)(rng, depth)


def text(rng: random.Random, depth: int) -> dict[str, Any]:
    forms: list[dict[str, Any]] = [
        {"maxLength": rng.randint(0, 12)},
        {"minLength": 2, "maxLength": 5},
        {"pattern": "^[a-zé]{1,4}$"},
        {"pattern": "^(\\d{2}-)?[A-Z]{2}$"},
        {"format": "date"},
    ]
    return {"type": "string", **rng.choice(forms)}


def number(rng: random.Random, depth: int) -> dict[str, Any]:
    forms: list[dict[str, Any]] = [
        {"type": "integer", "minimum": -20, "maximum": 300},
        {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 5},
        {"type": "number", "minimum": 0, "maximum": 1},
        {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 1000},
    ]
    return rng.choice(forms)


def enum(rng: random.Random, depth: int) -> dict[str, Any]:
    values = [*WORDS, 1, 2.5, None, True, {"a": [1]}, ["b"]]
    return {"enum": rng.sample(values, rng.randint(1, 5))}


def const(rng: random.Random, depth: int) -> dict[str, Any]:
    return {"const": rng.choice([*WORDS, "e\u0301", "<|im_end|><think>", "\u0000\u007f", -3])}


def nothing(rng: random.Random, depth: int) -> dict[str, Any]:
    return {"type": rng.choice(["null", "boolean", ["null", "boolean"]])}


def thing(rng: random.Random, depth: int) -> dict[str, Any]:
    keys = rng.sample(WORDS, rng.randint(0, 4))
    return {
        "type": "object",
        "properties": {key: schema(rng, depth - 1) for key in keys},
        "required": [key for key in keys if rng.random() < 0.7],
        "additionalProperties": False,
    }


def array(rng: random.Random, depth: int) -> dict[str, Any]:
    least = rng.randint(0, 2)
    limits = {"minItems": least, "maxItems": least + rng.randint(0, 2)}
    if rng.random() < 0.3:
        first = [schema(rng, depth - 1) for _ in range(2)]
        return {"type": "array", "prefixItems": first, "items": False, "minItems": 2}
    return {"type": "array", "items": schema(rng, depth - 1), **limits}


def any_of(rng: random.Random, depth: int) -> dict[str, Any]:
    return {"anyOf": [schema(rng, depth - 1) for _ in range(rng.randint(1, 3))]}


def reference(rng: random.Random, depth: int) -> dict[str, Any]:
    """A list of lists, as deep as it is drawn."""
    leaf = {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}
    node = {
        "type": "object",
        "properties": {"value": text(rng, 0), "next": leaf},
        "required": ["value", "next"],
        "additionalProperties": False,
    }
    if depth < 3:  # references lead from the schema's root
        return node | {"properties": {"value": text(rng, 0)}, "required": ["value"]}
    return {"$ref": "#/$defs/node", "$defs": {"node": node}}


def allowed(match: Match) -> list[int]:
    mask = match.mask()
    return [
        8 * n + bit for n, byte in enumerate(mask) if byte for bit in range(8) if byte >> bit & 1
    ]


def walk(match: Match, eos: set[int], rng: random.Random, most: int = MOST_TOKENS) -> list[int]:
    """Ids drawn at random among those that may come, up to the end, which may come early."""
    ids: list[int] = []
    while not match.ended and len(ids) < most:
        choice = allowed(match)
        ends = [token for token in choice if token in eos]
        token = rng.choice(ends) if ends and rng.random() < 0.5 else rng.choice(choice)
        if token in eos:
            break
        assert match.take(token)
        ids.append(token)
    return ids
