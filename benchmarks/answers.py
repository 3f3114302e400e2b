"""Endless answers of four kinds, token by token, for `benchmarks.tui` to have painted."""

from __future__ import annotations

from collections.abc import Iterator


def prose() -> Iterator[str]:
    """Paragraphs, and now and then a heading, a list, a table and code."""
    n = 0
    while True:
        n += 1
        yield from (f"word{k} " for k in range(40))
        yield f"and **so** on with `code {n}`.\n\n"
        if n % 10 == 0:
            yield from ("## A heading\n\n", "- one\n", "- two\n", "- three\n\n")
            yield from ("| a | b |\n", "|---|---|\n", "| 1 | 2 |\n", "| 3 | 4 |\n\n")
            yield from ("```python\n", *(f"x{k} = f({k})  # why\n" for k in range(20)), "```\n\n")


def code() -> Iterator[str]:
    """Python in one block."""
    yield "```python\n"
    n = 0
    while True:
        n += 1
        yield from (f"def f{n}(", "x: int", ") -> int", ":\n", f"    return x * {n}", "\n", "\n")


def items() -> Iterator[str]:
    """A numbered list."""
    n = 0
    while True:
        n += 1
        yield from (f"{n}. ", "an item ", "with **some** ", "words\n")


def table() -> Iterator[str]:
    """A table of two columns."""
    yield from ("| n | square |\n", "|---|---|\n")
    n = 0
    while True:
        n += 1
        yield from (f"| {n} ", f"| {n * n} ", "|\n")


LONG = {"prose": prose, "code": code, "a list": items, "a table": table}
"""By the name of its kind."""
