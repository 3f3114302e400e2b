"""Runs untrusted chat templates: they can only read their variables and produce text.

jinja2's immutable sandbox blocks access to Python's internals and changes of the variables. Costly
operations charge an allowance first (`template_limits`), so that no template runs for long or fills
the memory; compiling evaluates nothing. The dialect is that of transformers, for which templates
are written: trimmed blocks, loop controls, ``tojson`` as plain JSON, ``generation`` blocks.

This module imports jinja2, and is therefore imported only where a template is compiled.
"""

from __future__ import annotations

import functools
import json
import re
import traceback
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
from jinja2.exceptions import SecurityError
from jinja2.runtime import LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Cycler, Joiner, Namespace

from qwen3_mlx.errors import TemplateError
from qwen3_mlx.text import template_costs as costs
from qwen3_mlx.text import template_limits as limits
from qwen3_mlx.text.template_limits import ALLOWANCE, CALL, Allowance
from qwen3_mlx.text.template_tree import SPEND, guard_tree

_HELPERS = (LoopContext, Cycler, Joiner)  # jinja2's own objects, whose methods cost nothing
_SCOPES = ("_loop_vars", "_block_vars")  # keywords that jinja2 adds to a call's arguments
_UNTRUSTED = "Qwen's own templates do nothing of the kind: use a checkpoint from a source you trust"
_DAMAGED = "compare it with chat_template in the original checkpoint's tokenizer_config.json"
_CONVERSATION = "check the order and the fields of the messages, and the tools"


_MAX_RANGE = 100_000  # most numbers of all ranges in one rendering; more than any chat's messages
_MAX_SOURCE = 60_000  # most characters of a template; Qwen's have 4,000 to 8,000


class _Refusal(Exception):
    """The template called raise_exception."""


class _Generation(jinja2.ext.Extension):
    """``{% generation %}``, which marks the assistant's text for training: renders its body."""

    tags = {"generation"}  # noqa: RUF012  (jinja2 declares it so)

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(["+", "-", "*", "/", "//", "%", "**"])
    concat = staticmethod(limits.concatenate)

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        """Raise `SecurityError`; jinja2's own method lets ``{{ x.__class__ }}`` print nothing."""
        raise SecurityError(f"{attribute!r} of a {type(obj).__name__}")

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """``left operator right``, charged first. Raises `OverflowError`."""
        if operator == "+" and type(left) is type(right) is str:
            ALLOWANCE.get().make(len(left) + len(right))
            return left + right
        costs.operator(operator, left, right)
        return self.binop_table[operator](left, right)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """``obj[argument]``; charges for the argument, as hashing a tuple visits its contents."""
        return super().getitem(obj, limits.weighed(argument))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """jinja2's sandboxed ``str.format``, wrapped to charge for its result first."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        layout, original = value.__self__, wrapped

        def guarded(*args: Any, **named: Any) -> str:
            costs.formatting(ALLOWANCE.get(), layout, *args, *named.values())
            return original(*args, **named)

        return guarded

    def call(self, context: Any, obj: Any, /, *args: Any, **named: Any) -> Any:
        """``obj(...)``, charged first. Raises `OverflowError` or `SecurityError`."""
        allowance = ALLOWANCE.get()
        allowance.spend(CALL)
        own = {one: named[one] for one in named if one not in _SCOPES} if named else named
        if isinstance(obj, LoopContext):
            args = (limits.counted(args[0], CALL), *args[1:]) if args else args
        elif not isinstance(obj, Macro):
            owner = getattr(obj, "__self__", None)
            if owner is not None and not isinstance(owner, _HELPERS):
                args = costs.method(obj, args, own)
            else:
                for value in args if obj is Namespace else (*args, *own.values()):
                    allowance.weigh(value)
        return super().call(context, obj, *args, **named)


class _Range:
    """`range` with `_MAX_RANGE` numbers for the whole rendering, which nested loops share."""

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
    """`value` as plain JSON; jinja2's own filter escapes characters for HTML."""
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
    if len(layout) > 100 or re.search(r"%[^a-zA-Z%]*\d", layout):
        raise OverflowError("a date of a hundred characters, or with widths")
    return datetime.now().strftime(layout)


@jinja2.pass_context  # makes jinja2 call it only when rendering, never when compiling
def _finalize(context: Any, value: Any) -> Any:
    del context
    return value if type(value) is str else limits.printed(value)


@functools.cache
def _environment() -> _Environment:
    environment = _Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Generation, jinja2.ext.loopcontrols],
        optimized=False,
        finalize=_finalize,
    )
    filters: dict[str, Callable[..., Any]] = {**environment.filters, "tojson": _to_json}
    environment.filters = {
        name: costs.guarded(filters[name], cost) for name, cost in costs.FILTERS.items()
    } | SPEND
    tests: dict[str, Any] = {**environment.tests}
    environment.tests = tests | {
        name: costs.compared(tests[name]) for name in costs.COMPARING_TESTS
    }
    environment.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now)
    del environment.globals["lipsum"]  # it generates filler text of any length
    return environment


class SandboxedTemplate:
    """A compiled template. Any failure inside it is raised as `TemplateError`."""

    def __init__(self, source: str) -> None:
        if len(source) > _MAX_SOURCE:
            got = f"{len(source)} characters"
            expected = f"at most {_MAX_SOURCE}"
            raise TemplateError("chat template", got=got, expected=expected, hint=_DAMAGED)
        environment = _environment()
        try:
            tree = guard_tree(environment.parse(source), environment)
            self._template = environment.from_string(tree)
        except jinja2.TemplateSyntaxError as error:
            where = f"line {error.lineno}: {error.message}"
            raise TemplateError("chat template: syntax error", got=where, hint=_DAMAGED) from None
        except Exception as error:  # Python's compiler has its own limits, of nesting for example
            raise TemplateError("chat template", got=_describe(error), hint=_DAMAGED) from None

    def render(self, variables: Mapping[str, Any]) -> str:
        """The rendered text. Raises `TemplateError`."""
        token = ALLOWANCE.set(Allowance(variables))
        try:
            return limits.concatenate(self._template.generate(variables, range=_Range()))
        except _Refusal as refusal:
            what = "the chat template refuses this conversation"
            raise TemplateError(what, got=str(refusal), hint=_CONVERSATION) from None
        except (SecurityError, OverflowError, MemoryError) as error:
            what = "the chat template breaks the rules of its sandbox"
            raise TemplateError(what, got=_describe(error), hint=_UNTRUSTED) from None
        except Exception as error:  # a template can cause any exception
            what = "the chat template fails on this conversation"
            raise TemplateError(what, got=_describe(error), hint=_CONVERSATION) from None
        finally:
            ALLOWANCE.reset(token)


def _describe(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == "<template>"]
    where = f"line {lines[-1]}: " if lines else ""
    return f"{where}{type(error).__name__}: {error}"
