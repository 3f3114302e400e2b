"""Writes docs/openapi.json from the routes and the readers: ``python -m docs.make_openapi``.

A reader is asked what it takes: a body notes which fields are looked up, and a value that is of no
JSON type is refused by each with the type it expects.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from qwen3_mlx.chat.runtime import Runtime
from qwen3_mlx.hub.kinds import Kind
from qwen3_mlx.model import load
from qwen3_mlx.serve import chat_completions, completions, messages, responses, retrieve
from qwen3_mlx.serve.api_error import ApiError
from qwen3_mlx.serve.app import ROUTES

FILE = Path(__file__).with_name("openapi.json")
Json = dict[str, Any]
Reader = Callable[[Json], object]

TYPES: dict[str, Json] = {
    "expected text": {"type": ["string", "null"]},
    "expected a whole number": {"type": ["integer", "null"]},
    "expected a number": {"type": ["number", "null"]},
    "expected true or false": {"type": ["boolean", "null"]},
    "expected a list": {"type": ["array", "null"]},
    "expected a JSON object": {"type": ["object", "null"]},
    "expected an object": {"type": ["object", "null"]},
}
TEXT: Json = {"type": "string"}
TEXTS: Json = {"type": "array", "items": TEXT}
IDS: Json = {"type": "array", "items": {"type": "integer", "minimum": 0}}
SCHEMA: Json = {"type": "object", "examples": [{"type": "object", "properties": {}}]}
PART: Json = {
    "type": "object",
    "required": ["type", "text"],
    "properties": {"type": {"enum": ["text", "input_text", "output_text"]}, "text": TEXT},
}
CONTENT: Json = {"anyOf": [TEXT, {"type": "array", "items": PART}]}
MESSAGE: Json = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {"role": {"enum": ["system", "user", "assistant"]}, "content": CONTENT},
}
FUNCTION: Json = {
    "type": "object",
    "required": ["name"],
    "properties": {"name": TEXT, "description": TEXT, "parameters": SCHEMA},
}
TOOL: Json = {
    "type": "object",
    "required": ["type", "function"],
    "properties": {"type": {"const": "function"}, "function": FUNCTION},
}
CHOICE: Json = {"enum": ["auto", "none", "required", None]}
FORMS: Json = {
    "type": "object",
    "required": ["type"],
    "properties": {
        "type": {"enum": ["text", "json_object", "json_schema"]},
        "json_schema": {"type": "object", "properties": {"name": TEXT, "schema": SCHEMA}},
    },
}
SHAPES: dict[str, Json] = {
    "messages": {"type": "array", "minItems": 1, "items": MESSAGE},
    "tools": {"type": "array", "items": TOOL},
    "tool_choice": CHOICE,
    "logprobs": {"const": True},
    "response_format": FORMS,
    "stop": {"anyOf": [TEXT, TEXTS]},
    "stop_sequences": TEXTS,
    "stream_options": {"type": "object", "properties": {"include_usage": {"type": "boolean"}}},
    "prompt": {"anyOf": [TEXT | {"minLength": 1}, IDS | {"minItems": 1}]},
    "input": {"anyOf": [TEXT, {"type": "array", "minItems": 1, "items": MESSAGE}]},
    "system": CONTENT,
    "instructions": TEXT,
    "documents": TEXTS,
    "max_tokens": {"type": "integer", "minimum": 16},
    "max_output_tokens": {"type": "integer", "minimum": 16},
    "reasoning_effort": {
        "enum": ["none", "minimal", "low", "medium", "high", "xhigh", "max", "default", None]
    },
    "thinking": {
        "type": "object",
        "required": ["type"],
        "properties": {
            "type": {"enum": ["enabled", "disabled", "adaptive", "between_tools"]},
            "budget_tokens": {"type": "integer", "minimum": 0},
        },
    },
    "temperature": {"type": ["number", "null"], "minimum": 0, "maximum": 2},
    "top_p": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
    "min_p": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
    "top_k": {"type": ["integer", "null"], "minimum": -1, "maximum": 1000},
    "presence_penalty": {"type": ["number", "null"], "minimum": -2, "maximum": 2},
    "frequency_penalty": {"type": ["number", "null"], "minimum": -2, "maximum": 2},
    "repetition_penalty": {"type": ["number", "null"], "minimum": 0.1, "maximum": 2},
    "min_tokens": {"type": ["integer", "null"], "minimum": 0, "maximum": 16},
    "thinking_budget": {
        "anyOf": [
            {"type": ["integer", "null"], "minimum": 0},
            {"type": "string", "pattern": "^(auto(:[1-9][0-9]{0,8})?|low|medium|high)$"},
            {
                "type": "object",
                "properties": {
                    "cap": {"type": "integer", "minimum": 1},
                    "floor": {"type": "integer", "minimum": 0},
                    "interval": {"type": "integer", "minimum": 1},
                    "certainty": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
                    "first": {"type": "boolean"},
                },
                "additionalProperties": False,
            },
        ]
    },
    "top_logprobs": {"type": ["integer", "null"], "minimum": 0, "maximum": 20},
    "text": {"type": "object", "properties": {"format": FORMS}},
    "logit_bias": {
        "type": "object",
        "propertyNames": {"pattern": "^[0-9]{1,3}$"},
        "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
    },
    "kind": {"enum": ["answer", "stop"]},
    "tokens": IDS,
    "with_pieces": {"type": "boolean"},
}
ANTHROPIC_TOOL: Json = {
    "type": "object",
    "required": ["name"],
    "properties": {"name": TEXT, "description": TEXT, "input_schema": SCHEMA},
}
OWN: dict[str, dict[str, Json]] = {
    "messages": {
        "output_format": FORMS,
        "tools": {"type": "array", "items": ANTHROPIC_TOOL},
        "tool_choice": {"type": "object", "properties": {"type": {"enum": ["auto", "none"]}}},
    },
    "responses": {
        "tools": {
            "type": "array",
            "items": FUNCTION | {"required": ["type", "name"]},
        }
    },
    "completions": {"logprobs": {"type": ["integer", "null"], "minimum": 0, "maximum": 20}},
    "embeddings": {"input": {"anyOf": [TEXT, TEXTS, IDS]}},
}
"""Shapes of fields that a route has in its own way, by the handler's name."""


class _Noting(dict[str, Any]):
    """A body that notes which fields are looked up."""

    def __init__(self, values: Json) -> None:
        super().__init__(values)
        self.looked_up: dict[str, None] = {}

    def get(self, name: str, default: Any = None) -> Any:
        self.looked_up[name] = None
        return super().get(name, default)


def fields_of(read: Reader, least: Json) -> dict[str, Json]:
    """What `read` takes, by name: a schema each. `least` is a body that it accepts."""
    body = _Noting(least)
    read(body)
    found = {name: _schema(read, least, name) for name in body.looked_up}
    return {name: schema for name, schema in found.items() if schema is not None}


def _schema(read: Reader, least: Json, name: str) -> Json | None:
    """A field's schema, from how a value of no type is refused; None if any value is."""
    try:
        read(_Noting(least | {name: b""}))
    except ApiError as error:
        why = error.message.rpartition("; ")[2]
        return None if "can't honour" in why else TYPES.get(why, {})
    except Exception:  # a value that no JSON holds
        return {}
    return {}


def _runtime(kind: Kind) -> Runtime:
    """The bundled model's, as if it were made for vectors or scores."""
    return replace(load("demo").runtime, kind=kind)


SAME: dict[str, tuple[str, ...]] = {
    "thinking_budget": (
        *("thinking_token_budget", "thinking_budget_tokens", "reasoning_max_tokens"),
        *("thinking.budget_tokens", "reasoning.max_tokens"),
    ),
    "thinking": ("enable_thinking", "think", "reasoning.enabled", "chat_template_kwargs"),
    "reasoning_effort": ("reasoning.effort", "output_config.effort"),
    "max_tokens": ("max_completion_tokens",),
    "FORM": (
        *("response_format", "output_format", "text.format", "output_config.format"),
        *("guided_json", "guided_regex", "guided_choice", "structured_outputs", "json_schema"),
    ),
}
"""Fields that other programs have for the same: a request says it under one name."""
FORM = {"chat": "response_format", "messages": "output_format", "responses": "text"}
"""Under which name a handler's own clients say how an answer is formed."""
SAID: Json = {"messages": [{"role": "user", "content": "Hi"}]}
READERS: dict[str, tuple[Reader, Json]] = {
    "chat": (chat_completions.read, SAID),
    "completions": (completions.read, {"prompt": "Hi"}),
    "messages": (messages.read, SAID | {"max_tokens": 16}),
    "count_tokens": (lambda body: messages.read(body, counting=True), SAID),
    "responses": (lambda body: responses.read(body, responses.Kept()), {"input": "Hi"}),
    "input_tokens": (lambda body: responses.read(body, responses.Kept()), {"input": "Hi"}),
    "embeddings": (
        lambda body: retrieve.read_embeddings(body, _runtime("embedder")),
        {"input": "Hi"},
    ),
    "rerank": (
        lambda body: retrieve.read_rerank(body, _runtime("reranker")),
        {"query": "Hi", "documents": ["Hi"]},
    ),
}
SMALL: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "interrupt": (("id", "kind"), ("id",)),
    "tokenize": (("model", "prompt", "content", "messages", "tools", "with_pieces"), ()),
    "detokenize": (("model", "tokens"), ("tokens",)),
}
"""Handlers that read few fields themselves: those, and the ones that must be there."""
OPENAI_ERROR: Json = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {"message": TEXT, "type": TEXT},
        }
    },
}
ANTHROPIC_ERROR: Json = {
    "type": "object",
    "required": ["type", "error"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["type", "message"],
            "properties": {"message": TEXT, "type": TEXT},
        },
    },
}
ANSWERS: dict[str, tuple[str, ...]] = {
    "chat": ("id", "object", "created", "model", "choices", "usage"),
    "completions": ("id", "object", "created", "model", "choices", "usage"),
    "messages": ("id", "type", "role", "model", "content", "stop_reason", "usage"),
    "count_tokens": ("input_tokens",),
    "input_tokens": ("object", "input_tokens"),
    "responses": ("id", "object", "created_at", "status", "model", "output", "usage"),
    "embeddings": ("object", "data", "model", "usage"),
    "rerank": ("id", "model", "results", "usage"),
    "models": ("data",),
    "model": ("id",),
    "tokenize": ("tokens", "count", "max_model_len"),
    "detokenize": ("prompt", "content"),
    "interrupt": ("id", "interrupted"),
    "response": ("id", "object"),
    "input_items": ("object", "data", "first_id", "last_id", "has_more"),
    "health": ("status", "model", "running", "waiting"),
}
"""What every whole answer has."""
STREAMS = ("chat", "completions", "messages", "responses")
TEXTUAL = {"metrics": "text/plain", "page": "text/html"}


def _body(name: str) -> Json | None:
    if name in READERS:
        read, least = READERS[name]
        properties, required = fields_of(read, least), list(least)
    elif name in SMALL:
        names, needed = SMALL[name]
        properties, required = dict.fromkeys(names, TEXT), list(needed)
    else:
        return None
    name = {"count_tokens": "messages", "input_tokens": "responses"}.get(name, name)
    properties = _without_synonyms(properties, FORM.get(name, ""))
    own = SHAPES | OWN.get(name, {})
    shaped = {field: schema | own.get(field, {}) for field, schema in sorted(properties.items())}
    found = {"type": "object", "required": required, "properties": shaped}
    needs = {"top_logprobs": ["logprobs"], "tool_choice": ["tools"]}
    needs = {first: others for first, others in needs.items() if first in shaped}
    return found | ({"dependentRequired": needs} if needs else {})


def _without_synonyms(properties: dict[str, Json], form: str) -> dict[str, Json]:
    """Each of `SAME` under one name, whose description has the others."""
    found = dict(properties)
    for first, others in SAME.items():
        name = form if first == "FORM" else first
        if name not in found:
            continue
        known = [other for other in others if other.partition(".")[0] in properties]
        synonyms = [other for other in known if other.partition(".")[0] != name]
        for other in {synonym.partition(".")[0] for synonym in synonyms} - {*SAME}:
            found.pop(other, None)
        if synonyms:
            found[name] = found[name] | {"description": f"also said as {', '.join(synonyms)}"}
    return found


def _answer(name: str) -> Json:
    if name in TEXTUAL:
        return {TEXTUAL[name]: {"schema": TEXT}}
    whole = {"type": "object", "required": list(ANSWERS[name])}
    found: Json = {"application/json": {"schema": whole}}
    # without a schema: version 3.1 has none for events, and a reader tries it on each of them
    return found | ({"text/event-stream": {}} if name in STREAMS else {})


def _operation(path: str, method: str, name: str) -> Json:
    anthropic = path.startswith("/v1/messages")
    error = {"application/json": {"schema": ANTHROPIC_ERROR if anthropic else OPENAI_ERROR}}
    failed = {status: {"description": "refused", "content": error} for status in ("4XX", "503")}
    if name == "health":  # which tells its state with that status, too
        failed["503"] = {"description": "not able to work", "content": _answer(name)}
    place = path.strip("/").replace("/", "_").replace("{", "").replace("}", "")
    found: Json = {"operationId": f"{method.lower()}_{place or 'page'}"}
    if "{id}" in path:
        found["parameters"] = [{"name": "id", "in": "path", "required": True, "schema": TEXT}]
    if (body := _body(name)) is not None and method == "POST":
        content = {"application/json": {"schema": body}}
        found["requestBody"] = {"required": True, "content": content}
    answers = {"200": {"description": "the answer", "content": _answer(name)}}
    return found | {"responses": answers | failed}


def operations() -> Iterator[tuple[str, str, str]]:
    """Path, method and handler's name of all that is served."""
    for path, methods, name in ROUTES:
        for method in methods.split():
            yield path.replace(":path}", "}"), method, name


def document() -> str:
    """The file's text."""
    paths: dict[str, Json] = {}
    for path, method, name in operations():
        paths.setdefault(path, {})[method.lower()] = _operation(path, method, name)
    info = {"title": "qwen3-mlx serve", "version": "1"}
    found = {"openapi": "3.1.0", "info": info, "paths": paths}
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(document(), "utf-8")
