"""A kind of tool: the names, words and parameters that it may have, and the questions for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from training.data.problem import Family, Problem, Spec, is_held_out
from training.data.words import everyday

Json = dict[str, Any]
Values = dict[str, str]
"""Arguments by the parameter's own name, each as the JSON text that the model is to write."""

STRING: Json = {"type": "string"}
INTEGER: Json = {"type": "integer"}
NUMBER: Json = {"type": "number"}
STRINGS: Json = {"type": "array", "items": STRING}
INTEGERS: Json = {"type": "array", "items": INTEGER}
NUMBERS: Json = {"type": "array", "items": NUMBER}


def choice(*values: str) -> Json:
    """A string that is one of `values`."""
    return {"type": "string", "enum": list(values)}


@dataclass(frozen=True, slots=True)
class Parameter:
    """`name` is what the questions call it; a tool shows one of `names`, perhaps with a text."""

    name: str
    schema: Json
    names: Sequence[str]
    texts: Sequence[str]
    default: Any = None
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Kind:
    """What all tools of one purpose have in common."""

    name: str
    names: Sequence[str]
    texts: Sequence[str]
    parameters: Sequence[Parameter]
    families: Sequence[Family]
    wanted: Callable[[Spec], bool]
    """Whether a problem of the families is one for this kind."""
    values: Callable[[Spec], Values]
    """The arguments that solve a problem; an optional one at its default is left out."""
    skill: bool = True
    """Whether the model can also answer without a tool."""

    def problem(self, rng: Random, held_out: bool, english: bool = False) -> Problem:
        """A problem from one side of the split."""
        while True:
            family = rng.choice(self.families)
            spec = family.draw(rng)
            if self.wanted(spec) and is_held_out(family.key(spec)) == held_out:
                problem = family.write(rng, spec, None)
                if problem.language == "en" or not english:
                    return problem


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool as a conversation offers it."""

    kind: Kind
    name: str
    offer: Json
    """What the template renders."""
    text: str
    """The same, rendered."""
    shown: Mapping[str, str] = field(default_factory=dict)
    """The shown name of each parameter."""

    def arguments(self, values: Values) -> str:
        """`values` as the JSON object that a call holds, in the order of the parameters."""
        parts = [
            f"{json.dumps(self.shown[p.name])}: {values[p.name]}"
            for p in self.kind.parameters
            if p.name in values
        ]
        return f"{{{', '.join(parts)}}}"


def tool_of(kind: Kind, rng: Random) -> Tool:
    """A tool of `kind` with drawn names and words; one in eight has a name that says nothing."""
    name = rng.choice(kind.names)
    if rng.random() < 0.125:
        name = f"{everyday(rng)}_{everyday(rng)}"
    shown = {p.name: rng.choice(p.names) for p in kind.parameters}
    told = rng.random() < 0.6
    properties, required = {}, []
    for parameter in kind.parameters:
        schema = dict(parameter.schema)
        if told:
            schema["description"] = rng.choice(parameter.texts)
        if not parameter.optional:
            required.append(shown[parameter.name])
        elif parameter.default is not None and rng.random() < 0.5:
            schema["default"] = parameter.default
        properties[shown[parameter.name]] = schema
    function = {
        "name": name,
        "description": rng.choice(kind.texts),
        "parameters": {"type": "object", "properties": properties, "required": required},
    }
    offer = {"type": "function", "function": function}
    return Tool(kind, name, offer, json.dumps(offer, ensure_ascii=False), shown)
