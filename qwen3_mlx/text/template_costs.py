"""The cost of each operator, filter and method of a chat template, charged before it runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from typing import Any

from jinja2 import Environment
from jinja2.exceptions import SecurityError
from jinja2.nodes import EvalContext
from jinja2.runtime import Context

from qwen3_mlx.text.template_limits import (
    ALLOWANCE,
    CALL,
    MAX_BITS,
    MAX_WIDTH,
    VALUE,
    Allowance,
    counting,
)

_COPIES = 6  # most characters that escaping or changing case makes of one
_PIECE = 64  # bytes of a str object's header: a split may make one per one or two characters
_SORT = 16  # comparisons per value when a list is sorted
_PASSED = (Environment, Context, EvalContext)  # jinja2 may pass one of these before the value

WIDTHS = re.compile(r"\d{4,}|\*|\{[^{}]*\{")
"""Matches a format's field widths of four or more digits, or taken from the arguments."""


def operator(symbol: str, left: Any, right: Any) -> None:
    """Charge for the result of ``left symbol right``. Raises `OverflowError`."""
    allowance = ALLOWANCE.get()
    if isinstance(left, int) and isinstance(right, int):
        _numbers(symbol, left, right)
        allowance.spend(VALUE)
    elif symbol == "*":
        times, many = (left, right) if isinstance(left, int) else (right, left)
        if isinstance(times, int) and hasattr(many, "__len__"):
            allowance.make(max(times, 0) * len(many))
    elif symbol == "+":
        allowance.make(sum(len(side) for side in (left, right) if hasattr(side, "__len__")))
    elif symbol == "%" and isinstance(left, (str, bytes)):
        formatting(allowance, left, right)


def _numbers(symbol: str, left: int, right: int) -> None:
    bits = left.bit_length() + right.bit_length()
    if symbol == "**":
        bits = left.bit_length() * abs(right)
    if bits > 2 * MAX_BITS:
        raise OverflowError(f"a number of more than {MAX_BITS} bits")


def formatting(allowance: Allowance, layout: Any, *values: Any) -> None:
    """Charge for formatting `values`. Raises `OverflowError` for wide fields."""
    if not isinstance(layout, str) or WIDTHS.search(layout):
        raise OverflowError(f"a format with fields wider than {MAX_WIDTH}, or of any width")
    fields = 1 + layout.count("{") + layout.count("%")
    allowance.make(len(layout) + fields * MAX_WIDTH)
    # Every field may show the same value.
    allowance.make(_COPIES * fields * sum(map(allowance.weigh, values)))


def _width(value: Any) -> int:
    if isinstance(value, int) and abs(value) > MAX_WIDTH:
        raise OverflowError(f"a width of more than {MAX_WIDTH}")
    return int(value) if isinstance(value, int) else 0


def _replace(allowance: Allowance, text: Any, old: Any = "", new: Any = "", *_: Any) -> None:
    if not (isinstance(text, str) and isinstance(old, str) and isinstance(new, str)):
        raise SecurityError("replace of what is no text")
    allowance.make(len(text) + text.count(old) * len(new))


def _padded(allowance: Allowance, text: Any, width: Any = 80, *_: Any, **named: Any) -> None:
    wide = _width(named.get("width", width))
    allowance.make(allowance.weigh(text) + abs(wide))


def _tabs(allowance: Allowance, text: str, tabsize: Any = 8) -> None:
    allowance.make(len(text) + text.count("\t") * abs(_width(tabsize)))


def _indent(allowance: Allowance, text: Any, width: Any = 4, *_: Any, **named: Any) -> None:
    wide = named.get("width", width)
    size = len(wide) if isinstance(wide, str) else abs(_width(wide))
    allowance.make(allowance.weigh(text) + size * (len(str(text).splitlines()) + 2))


def _json(allowance: Allowance, value: Any, *args: Any, **named: Any) -> None:
    indent = named.get("indent", args[1] if len(args) > 1 else None)
    separators = named.get("separators", args[2] if len(args) > 2 else ())
    size = len(indent) if isinstance(indent, str) else abs(_width(indent))
    each = size * 20 + allowance.weigh(separators)  # assumes an average nesting of 20 levels
    weight = allowance.weigh(value)
    allowance.make(weight * _COPIES + weight // VALUE * each)


def _round(allowance: Allowance, value: Any, precision: Any = 0, *_: Any, **named: Any) -> None:
    if abs(named.get("precision", precision)) > 100:
        raise OverflowError("a precision of more than 100 digits")
    allowance.weigh(value)


def _sum(allowance: Allowance, values: Any, *_: Any, **named: Any) -> None:
    del named
    many = len(values) if hasattr(values, "__len__") else 1
    allowance.make(many * allowance.weigh(values) // VALUE)  # summing lists copies at each step


def _join(allowance: Allowance, values: Any, between: Any = "", *_: Any, **named: Any) -> None:
    between = named.get("d", between)
    many = len(values) if hasattr(values, "__len__") else 0
    allowance.make(_COPIES * allowance.weigh(values) + many * allowance.weigh(between))


def _joined(allowance: Allowance, between: str, values: Any) -> None:
    _join(allowance, values, between)


def _copied(allowance: Allowance, *values: Any, **named: Any) -> None:
    allowance.make(_COPIES * sum(map(allowance.weigh, (*values, *named.values()))))


def _compared(allowance: Allowance, value: Any, *rest: Any, **named: Any) -> None:
    allowance.make(_SORT * allowance.weigh(value))
    del rest, named


def _listed(allowance: Allowance, values: Any, *rest: Any, **named: Any) -> None:
    del rest, named
    each = _PIECE // 4 if isinstance(values, str) else 1
    allowance.make(each * len(values) if hasattr(values, "__len__") else 0)


def _rows(allowance: Allowance, values: Any, *rest: Any, **named: Any) -> None:
    for number in (*rest, *named.values()):
        _width(number)
    _listed(allowance, values)
    allowance.make(MAX_WIDTH)  # the filling of the last row, or empty rows


def _as_text(allowance: Allowance, value: Any, *rest: Any, **named: Any) -> None:
    size = allowance.weigh(value) * (1 if isinstance(value, str) else _COPIES)
    allowance.make(size + sum(map(allowance.weigh, (*rest, *named.values()))))


def _looked_at(allowance: Allowance, *values: Any, **named: Any) -> None:
    for value in (*values, *named.values()):
        allowance.weigh(value)


def _searched(
    allowance: Allowance, text: Any, wanted: Any = None, *_: Any, chars: Any = None
) -> None:
    needle = allowance.weigh(wanted if chars is None else chars)
    allowance.make(
        allowance.weigh(text) * (1 + needle // 16)
    )  # searching from the end takes quadratic time in Python


def _split(allowance: Allowance, text: str, wanted: Any = None, *_: Any, **named: Any) -> None:
    _searched(allowance, text, named.get("sep", wanted))
    pieces = text.count(wanted) if isinstance(wanted, str) and wanted else len(text) // 2
    allowance.make((pieces + 1) * _PIECE)


def _nothing(allowance: Allowance, *values: Any, **named: Any) -> None:
    del allowance, values, named


Cost = Callable[..., None]


def _table(costs: dict[Cost, str]) -> dict[str, Cost]:
    return {name: cost for cost, names in costs.items() for name in names.split()}


FILTERS = _table(
    {
        _nothing: "abs attr count d default filesizeformat first float int items last length "
        "random safe",
        _as_text: "string truncate wordcount",
        _searched: "trim",
        _copied: "capitalize e escape forceescape lower title upper urlencode",
        _compared: "dictsort groupby max min sort unique",
        _listed: "list map reject rejectattr reverse select selectattr",
        _rows: "batch slice",
        _join: "join",
        _json: "tojson",
        _padded: "center",
        _indent: "indent",
        _replace: "replace",
        _round: "round",
        _sum: "sum",
        formatting: "format",
    }
)
"""The filters that a template may use: jinja2's without those for HTML pages."""

METHODS: dict[type, dict[str, Cost]] = {
    str: _table(
        {
            _looked_at: "endswith isalnum isalpha isascii isdecimal isdigit isidentifier islower "
            "isnumeric isprintable isspace istitle isupper startswith",
            _copied: "capitalize casefold lower swapcase title upper",
            _padded: "center ljust rjust zfill",
            _searched: "count find index lstrip partition removeprefix removesuffix rfind rindex "
            "rpartition rstrip strip",
            _split: "rsplit split splitlines",
            _tabs: "expandtabs",
            _joined: "join",
            _replace: "replace",
        }
    ),
    dict: _table({_nothing: "items keys values", _looked_at: "get", _listed: "copy"}),
    list: _table({_looked_at: "count index", _listed: "copy"}),
    tuple: _table({_looked_at: "count index"}),
    range: _table({_looked_at: "count index"}),
    int: _table({_nothing: "bit_length"}),
    float: _table({_nothing: "is_integer"}),
}
"""The methods of plain values that a template may call, by type, with their costs."""

COMPARING_TESTS = (
    *("!=", "<", "<=", "==", ">", ">=", "eq", "equalto", "ge", "greaterthan", "gt", "in"),
    *("le", "lessthan", "lt", "ne"),
)
"""jinja2's tests that traverse the values they compare."""


def guarded(function: Callable[..., Any], cost: Cost) -> Callable[..., Any]:
    """`function`, a filter or a test, wrapped to charge `cost` first.

    If it returns an iterator, each value is charged as it is consumed.
    """

    @wraps(function)  # keeps the attribute by which jinja2 knows whether to pass a context
    def guard(*args: Any, **named: Any) -> Any:
        allowance = ALLOWANCE.get()
        allowance.spend(CALL)
        head = 1 if args and isinstance(args[0], _PASSED) else 0
        if len(args) > head and cost not in (_nothing, _listed):
            args = (*args[:head], _settled(args[head]), *args[head + 1 :])
        cost(allowance, *args[head:], **named)
        result = function(*args, **named)
        return counting(result) if hasattr(result, "__next__") else result

    return guard


def _settled(value: Any) -> Any:
    """`value`; an iterator becomes a list, each item charged."""
    return list(counting(value)) if hasattr(value, "__next__") else value


def compared(function: Callable[..., Any]) -> Callable[..., Any]:
    """The test `function`, wrapped to charge for traversing the values it compares."""
    return guarded(function, _looked_at)


def method(function: Any, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
    """Charge for calling a method of a plain value, and return the arguments to call it with.

    Raises `SecurityError` for a method that is not in `METHODS`.
    """
    owner = function.__self__
    known = next((METHODS[kind] for kind in type(owner).__mro__ if kind in METHODS), {})
    cost = known.get(function.__name__)
    if cost is None:
        raise SecurityError(f"{function.__name__!r} of a {type(owner).__name__}")
    args = tuple(map(_settled, args))
    cost(ALLOWANCE.get(), owner, *args, **named)
    return args
