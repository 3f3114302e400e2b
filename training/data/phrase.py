"""The many ways people type the same question: templates, casing, politeness, languages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from random import Random

Book = Mapping[str, Sequence[str]]
"""Templates by language code; "en" is always there."""

OTHER_LANGUAGES = 0.15
_VERBS = """
Add Arrange Calculate Compare Compute Count Evaluate Find Flip Give List Multiply Order Put
Reverse Say Solve Sort Spell Subtract Take Tell Turn Work Write
"""
_IMPERATIVES = frozenset(_VERBS.split())
_GREETINGS = ("Hi, ", "Hello! ", "Hey, ", "Hi! ", "ok, ", "Good morning. ", "Thanks. ", "Next: ")
_TAILS = (" ", "\n", "  ", " \n", "\n\n")


@cache
def _lowered(template: str) -> str:
    return template.lower()


@cache
def _unpunctuated(template: str) -> str:
    return template.rstrip(" ?.？。") or template


@cache
def _polite(template: str, prefix: bool) -> str:
    if prefix and template.split(" ", 1)[0] in _IMPERATIVES:
        return "Please " + template[0].lower() + template[1:]
    end = "?" if template.endswith("?") else "."
    return template.rstrip(" ?.") + ", please" + end


def phrase(rng: Random, book: Book, **values: object) -> tuple[str, str]:
    """A question made from one of the book's templates -> (text, language)."""
    language = "en"
    if len(book) > 1 and rng.random() < OTHER_LANGUAGES:
        language = rng.choice([code for code in book if code != "en"])
    template = rng.choice(book[language])
    if language == "en" and rng.random() < 0.1:
        template = _polite(template, rng.random() < 0.6)
    draw = rng.random()
    if draw < 0.2:
        template = _lowered(template)
    elif draw < 0.3:
        template = _unpunctuated(template)
    elif draw < 0.45:
        template = _lowered(_unpunctuated(template))
    return dressed(rng, template.format(**values)), language


def dressed(rng: Random, text: str) -> str:
    """`text` with an occasional greeting in front or white space behind."""
    draw = rng.random()
    if draw < 0.04:
        return rng.choice(_GREETINGS) + text
    if draw < 0.08:
        return text + rng.choice(_TAILS)
    return text


def say(rng: Random, book: Book, language: str, **values: object) -> str:
    """An answer in the language of the question, English where the book has no other."""
    return rng.choice(book.get(language) or book["en"]).format(**values)


def typo(rng: Random, text: str) -> str:
    """`text` with one letter dropped, doubled, swapped with the next, or in the wrong case."""
    if len(text) < 4:
        return text
    at = rng.randrange(1, len(text) - 1)
    kind = rng.randrange(4)
    if kind == 0:
        return text[:at] + text[at + 1 :]
    if kind == 1:
        return text[:at] + text[at] + text[at:]
    if kind == 2:
        return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    return text[:at] + text[at].swapcase() + text[at + 1 :]
