"""A request parsed from any dialect: its messages, its options, and the form of its answer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from qwen3_mlx.chat.continuing import NOTHING
from qwen3_mlx.chat.request import LAST, Request, prepare, render
from qwen3_mlx.chat.runtime import Runtime
from qwen3_mlx.errors import ContextError, MessageError, Qwen3Error
from qwen3_mlx.hub.kinds import check_writes_text
from qwen3_mlx.options import GenerationOptions, Sampling
from qwen3_mlx.options.thinking_budget import ThinkingBudget
from qwen3_mlx.serve import thinking
from qwen3_mlx.serve.api_error import ApiError, refused
from qwen3_mlx.text import Mode

Json = dict[str, Any]
Made = TypeVar("Made")
_MESSAGE = re.compile(r"messages\[(\d+)\](.*)", re.DOTALL)


@dataclass(frozen=True)
class Ask:
    """One request, independent of its dialect."""

    model: str
    messages: list[Json]
    options: Mapping[str, Any]
    thinking: thinking.Asked = field(default_factory=thinking.Asked)
    tools: list[Json] = field(default_factory=list)
    stream: bool = False
    usage_in_stream: bool = False
    continues: bool = False
    one_call: bool = False
    """Whether the turn ends after its first tool call."""
    prompt: str | list[int] | None = None
    """Text or token ids that the model continues without a chat template; None for a chat."""
    ignored: tuple[str, ...] = ()
    """Unknown fields of the request, which are ignored."""
    more: Json = field(default_factory=dict)
    """Values of the request that the writer of the answer needs; used by ``/v1/responses``."""
    named: Mapping[str, str] = field(default_factory=dict)
    """The request's own names of options, where they differ: ``max_output_tokens``."""
    places: tuple[str, ...] = ()
    """Where in the request each of `messages` stands; () if they are the request's own list."""
    form_field: str = ""
    """The request's own name of the schema or the regex; "" if the answer has no form."""
    sampling: Sampling | None = None
    """The resolved sampling settings; set once the turn has been prepared."""


def ready(runtime: Runtime, ask: Ask) -> Request:
    """Render the prompt, tokenize it and check the options. Raises `Qwen3Error` or `ApiError`."""
    with _in_its_words(ask):
        return _ready(runtime, ask)


@contextmanager
def _in_its_words(ask: Ask) -> Iterator[None]:
    """Name fields in a `Qwen3Error` as the request does: a client looks for what it has sent."""
    try:
        yield
    except ContextError as error:
        field = "prompt" if ask.prompt is not None else ask.named.get("messages", "messages")
        raise ApiError(400, str(error), param=field, code="context_length_exceeded") from None
    except Qwen3Error as error:
        _raise_of_form(ask, error)
        _raise_of_last(ask, error)
        found = _MESSAGE.match(error.what)
        if found and int(found[1]) < len(ask.places):
            place = ask.places[int(found[1])]
            rest = found[2].removeprefix(".content") if place.endswith(".output") else found[2]
            error.what = place + (rest if "[" in place else "")
        quotes = isinstance(error, MessageError)  # then `got` is the request's own words
        for name in ("what", "expected", "hint", *(() if quotes else ("got",))):
            if isinstance(said := getattr(error, name), str):
                setattr(error, name, _renamed(said, ask.named))
        raise


def _raise_of_form(ask: Ask, error: Qwen3Error) -> None:
    """Raise `ApiError` if `error` is of the schema or the regex, or of a tool's schema."""
    first, _, rest = error.what.partition(" ")
    if ask.form_field and first in ("schema", "regex"):
        error.what = f"{ask.form_field} {rest}".strip()
        raise ApiError(400, str(error), param=ask.form_field) from None
    if error.what.startswith("the schema of "):
        raise ApiError(400, str(error), param="tools") from None


def _raise_of_last(ask: Ask, error: Qwen3Error) -> None:
    """Raise `ApiError` if `error` is that the last message can't be answered, or continued."""
    field = ask.named.get("messages", "messages")
    if error.what == NOTHING:
        raise ApiError(400, str(error), param=field) from None
    if error.what == LAST:
        more = "; or continue it, by continue_final_message: true" if field == "messages" else ""
        raise ApiError(400, f"{LAST}\nhint: add a user message{more}", param=field) from None


def _renamed(said: str, names: Mapping[str, str]) -> str:
    for ours, theirs in names.items():
        said = re.sub(rf"(?<![\w.'\"]){ours}\b", theirs, said)
    return said


def _ready(runtime: Runtime, ask: Ask) -> Request:
    if ask.prompt is not None:
        return _raw(runtime, ask.prompt, GenerationOptions(**ask.options))

    def prepared(messages: list[Json], options: GenerationOptions) -> Request:
        return prepare(
            runtime,
            messages,
            options,
            ask.tools,
            continue_last=ask.continues,
            budget_gives_way=not ask.thinking.number,
        )

    return _read(runtime, ask, prepared)


def prompt_ids(runtime: Runtime, ask: Ask) -> list[int]:
    """The ids of the prompt of a chat, also where they exceed the context.

    They are those of the turn that the same fields ask for. Raises `Qwen3Error` or `ApiError`.
    """

    def rendered(messages: list[Json], options: GenerationOptions) -> list[int]:
        return render(runtime, messages, options, ask.tools, continue_last=ask.continues).prompt

    with _in_its_words(ask):
        return _read(runtime, ask, rendered)


def _read(
    runtime: Runtime, ask: Ask, make: Callable[[list[Json], GenerationOptions], Made]
) -> Made:
    """What `make` gives for the messages; if it can't read a tool call, for readable ones."""
    options = dict(ask.options)
    most, context = options.get("max_tokens"), runtime.network.context
    options |= thinking.options(ask.thinking, runtime.family, most, context)
    try:
        return make(ask.messages, GenerationOptions(**options))
    except MessageError:
        readable = [_readable(message) for message in ask.messages]
        if readable == ask.messages:
            raise
        return make(readable, GenerationOptions(**options))


def _readable(message: Any) -> Any:
    """`message` with a JSON object as the arguments of every tool call.

    A call that was cut off has incomplete JSON, and the client sends it back with every further
    request. Some templates write arguments one by one: the raw text becomes the only argument.
    """
    if not isinstance(message, dict) or not isinstance(message.get("tool_calls"), list):
        return message
    return message | {"tool_calls": [_readable_call(call) for call in message["tool_calls"]]}


def _readable_call(call: Any) -> Any:
    if not isinstance(call, dict):
        return call
    function = call.get("function")
    if isinstance(function, dict):
        return call | {"function": _readable_call(function)}
    arguments = call.get("arguments")
    if not isinstance(arguments, str) or not arguments.strip():
        return call
    try:
        known = isinstance(json.loads(arguments), dict)
    except (ValueError, RecursionError):
        known = False
    return call if known else call | {"arguments": {"arguments": arguments}}


def _raw(runtime: Runtime, prompt: str | list[int], options: GenerationOptions) -> Request:
    """A turn that continues `prompt` without thinking or tool calls; 16 tokens unless limited.

    Raises `ApiError` for ids outside the vocabulary, `ContextError` for a prompt too long, and
    `OptionError` for a model that writes no text.
    """
    check_writes_text(runtime.kind, runtime.name)
    ids = runtime.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
    if not ids or not all(0 <= token < runtime.config.vocab_size for token in ids):
        raise refused("prompt", ids[:8], f"expected ids below {runtime.config.vocab_size}, or text")
    room = runtime.config.context - len(ids)
    if room <= 0:
        expected = f"fewer than {runtime.config.context}, the context of {runtime.name}"
        got, hint = f"{len(ids)} tokens", "shorten it, or ask for more with --context"
        raise ContextError("the prompt is too long", got=got, expected=expected, hint=hint)
    return Request(
        prompt=ids,
        mode=Mode(thinking=False, template_flag=None, starts_inside=False),
        sampling=options.sampling(runtime.family, False, runtime.generation_config),
        markers=runtime.markers([]),
        tools=[],
        budget=ThinkingBudget(None, ()),
        max_tokens=min(options.max_tokens or 16, room),
        options=options,
        continues=True,
    )
