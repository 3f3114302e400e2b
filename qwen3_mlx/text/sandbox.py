"""Runs chat templates, which come from strangers: they can only read arguments and write text.

jinja2's immutable sandbox keeps them from Python's internals and from changing what they are given.
Their ranges are bounded; a template made for it can still waste time. The dialect is the one that
templates are written for: transformers' (trimmed blocks, loop controls, ``tojson`` as plain JSON,
``generation`` blocks).
This module imports jinja2, so it is itself imported only where a template is compiled.
"""

from __future__ import annotations

import functools
import json
import traceback
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from qwen3_mlx.errors import TemplateError

_UNTRUSTED = "Qwen's own templates do nothing of the kind: use a checkpoint from a source you trust"
_DAMAGED = "compare it with chat_template in the original checkpoint's tokenizer_config.json"
_CONVERSATION = "check the order and the fields of the messages, and the tools"


_MAX_RANGE = 100_000  # numbers in one rendering; no conversation has as many messages


class _Refusal(Exception):
    """The template called raise_exception."""


class _Generation(jinja2.ext.Extension):
    """``{% generation %}`` marks the assistant's text for training; it renders as its body."""

    tags = {"generation"}  # noqa: RUF012  (declared so by jinja2)

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


class _Environment(ImmutableSandboxedEnvironment):
    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        """Refuse at once: jinja2 would let ``{{ x.__class__ }}`` print nothing."""
        raise SecurityError(f"{attribute!r} of a {type(obj).__name__}")


class _Range:
    """`range` with one allowance for a whole rendering: nested loops don't multiply past it."""

    def __init__(self) -> None:
        self._left = _MAX_RANGE

    def __call__(self, *bounds: int) -> range:
        numbers = range(*bounds)
        self._left -= len(numbers)
        if self._left < 0:
            raise OverflowError(f"ranges of more than {_MAX_RANGE} numbers")
        return numbers


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON; jinja2's own filter escapes for HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> NoReturn:
    raise _Refusal(message)


def _strftime_now(layout: str) -> str:
    return datetime.now().strftime(layout)


@functools.cache
def _environment() -> _Environment:
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now)
    del environment.globals["lipsum"]  # no chat needs filler text, at any length
    return environment


class SandboxedTemplate:
    """One compiled template. Raises `TemplateError` for whatever goes wrong inside it."""

    def __init__(self, source: str) -> None:
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateSyntaxError as error:
            where = f"line {error.lineno}: {error.message}"
            raise TemplateError("chat template: syntax error", got=where, hint=_DAMAGED) from None
        except Exception as error:  # Python's compiler has limits of its own
            raise TemplateError("chat template", got=_describe(error), hint=_DAMAGED) from None

    def render(self, variables: Mapping[str, Any]) -> str:
        """The text for `variables`."""
        try:
            return self._template.render(variables, range=_Range())
        except _Refusal as refusal:
            what = "the chat template refuses this conversation"
            raise TemplateError(what, got=str(refusal), hint=_CONVERSATION) from None
        except (SecurityError, OverflowError) as error:
            what = "the chat template breaks the rules of its sandbox"
            raise TemplateError(what, got=_describe(error), hint=_UNTRUSTED) from None
        except Exception as error:  # a template can make any operation fail
            what = "the chat template fails on this conversation"
            raise TemplateError(what, got=_describe(error), hint=_CONVERSATION) from None


def _describe(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == "<template>"]
    where = f"line {lines[-1]}: " if lines else ""
    return f"{where}{type(error).__name__}: {error}"
