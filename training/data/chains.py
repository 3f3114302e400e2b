"""Expressions of two to four operations with brackets, rewritten one sub-expression at a time."""

from __future__ import annotations

import re
from random import Random
from typing import Any

from training.data.arithmetic import ANSWER, ASK, follow, last_number
from training.data.phrase import phrase, say
from training.data.problem import Family, Problem, Spec

Tree = Any
"""An int, or ``(sign, left, right)`` with sign one of ``+ - *``."""

_LARGEST = 1999
_RANK = {"+": 1, "-": 1, "*": 2}


def _leaf(rng: Random) -> int:
    return rng.choices(
        (rng.randint(1, 12), rng.randint(2, 30), rng.randint(10, 99), rng.randint(100, 300)),
        (45, 30, 20, 5),
    )[0]


def _tree(rng: Random, operations: int) -> Tree:
    if operations == 0:
        return _leaf(rng)
    left = rng.randint(0, operations - 1)
    sign = rng.choice("++--***")
    return (sign, _tree(rng, left), _tree(rng, operations - 1 - left))


def evaluate(tree: Tree) -> int | None:
    """The value, or None where a product or a sum is too large to be worked in the head."""
    if isinstance(tree, int):
        return tree
    sign, left, right = tree[0], evaluate(tree[1]), evaluate(tree[2])
    if left is None or right is None:
        return None
    if sign == "*":
        small, large = sorted((abs(left), abs(right)))
        return left * right if small <= 12 and large <= 99 else None
    total = left + right if sign == "+" else left - right
    return total if abs(total) <= _LARGEST else None


def draw(rng: Random) -> Spec:
    """``("chain", tree)``."""
    while True:
        tree = _tree(rng, rng.choices((2, 3, 4), (45, 35, 20))[0])
        if evaluate(tree) is not None:
            return ("chain", tree)


def text(tree: Tree) -> str:
    """The expression with the brackets it needs, negative numbers bracketed unless they lead."""
    plain = _text(tree)
    return re.sub(r"(?<=[^(])(?<!^)(?<= )(-\d+)", r"(\1)", plain)


def _text(tree: Tree) -> str:
    if isinstance(tree, int):
        return str(tree)
    sign, left, right = tree
    first, second = _text(left), _text(right)
    if isinstance(left, tuple) and _RANK[left[0]] < _RANK[sign]:
        first = f"({first})"
    if isinstance(right, tuple) and (_RANK[right[0]], sign) <= (_RANK[sign], sign):
        second = f"({second})"
    return f"{first} {sign} {second}"


def key(spec: Spec) -> str:
    return f"chain:{_text(spec[1])}"


def _sum_in_parts(a: int, sign: str, b: int) -> str:
    """``347+80=427, 427+6=433``: hundreds, tens and ones of `b` one after the other."""
    steps = []
    for part in (b // 100 * 100, b % 100 // 10 * 10, b % 10):
        if part:
            total = a + part if sign == "+" else a - part
            steps.append(f"{a}{sign}{part}={total}")
            a = total
    return ", ".join(steps)


def _product_in_parts(a: int, b: int) -> str:
    """``20*7=140, 4*7=28, 140+28=168`` for a >= b."""
    if b > 10:
        upper, lower, first, second = a * 10, a * (b - 10), f"{a}*10", f"{a}*{b - 10}"
    else:
        tens = a // 10 * 10
        upper, lower, first, second = tens * b, a % 10 * b, f"{tens}*{b}", f"{a % 10}*{b}"
    return f"{first}={upper}, {second}={lower}, {upper}+{lower}={upper + lower}"


def _parts(a: int, sign: str, b: int) -> str:
    """The working of ``a sign b`` (both >= 0), or "" where the head does it at once."""
    if sign == "*":
        large, small = max(a, b), min(a, b)
        easy = large <= 12 or small in (0, 1, 10) or large % 10 == 0
        return "" if easy else _product_in_parts(large, small)
    if sign == "+" and a < b:
        a, b = b, a
    return _sum_in_parts(a, sign, b) if a >= 100 and b >= 10 else ""


def _positive(a: int, sign: str, b: int) -> tuple[str, int, str, int]:
    """``a sign b`` as a minus (or "") in front of an operation on numbers >= 0."""
    if sign == "*":
        return ("-" if (a < 0) != (b < 0) else ""), abs(a), "*", abs(b)
    if sign == "-":
        b = -b
    if a < 0 and b < 0:
        return "-", -a, "+", -b
    if a >= 0 and b >= 0:
        return "", a, "+", b
    high, low = (a, -b) if b < 0 else (b, -a)
    return ("", high, "-", low) if high >= low else ("-", low, "-", high)


def _step(a: int, sign: str, b: int) -> str:
    """One operation with its working, ending in its result and a full stop."""
    total = {"+": a + b, "-": a - b, "*": a * b}[sign]
    shown = text((sign, a, b))
    minus, x, core_sign, y = _positive(a, sign, b)
    core = f"{x} {core_sign} {y}"
    if minus:
        shown += f" = -({core})"
    elif core != text((sign, a, b)):
        shown += f" = {core}"
    parts = _parts(x, core_sign, y)
    if not parts:
        return f"{shown} = {total}."
    return f"{shown}: {parts}{f', so {total}' if minus else ''}."


def _reduce(tree: Tree) -> tuple[str, Tree]:
    """Works the leftmost operation whose operands are both numbers -> (its step, the rest)."""
    sign, left, right = tree
    if isinstance(left, tuple):
        step, left = _reduce(left)
    elif isinstance(right, tuple):
        step, right = _reduce(right)
    else:
        return _step(left, sign, right), {"+": left + right, "-": left - right, "*": left * right}[
            sign
        ]
    return step, (sign, left, right)


def _thinking(tree: Tree) -> str:
    shown, steps = text(tree), []
    while isinstance(tree, tuple):
        step, tree = _reduce(tree)
        steps.append(step)
        if isinstance(tree, tuple):
            steps.append(f"Now {text(tree)}.")
    return f"{shown}. {' '.join(steps)} So the result is {tree}."


def _expression(rng: Random, tree: Tree) -> str:
    shown = text(tree)
    if rng.random() < 0.3:
        shown = shown.replace("*", rng.choice("x×·"))
    if rng.random() < 0.1:
        shown = shown.replace("-", "−")
    return shown.replace(" ", "") if rng.random() < 0.35 else shown


def write(rng: Random, spec: Spec, question: str | None) -> Problem:
    """The problem with steps and answer."""
    tree, language = spec[1], "en"
    if question is None:
        question, language = phrase(rng, ASK, e=_expression(rng, tree))
    result = str(evaluate(tree))
    answer = say(rng, ANSWER, language, c=text(tree), r=result)
    return Problem("chains", spec, question, _thinking(tree), answer, result, language=language)


CHAINS = Family("chains", draw, write, key, last_number, follow)
