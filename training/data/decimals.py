"""Comparing decimals: which of two to four is the largest or the smallest (9.11 or 9.9?)."""

from __future__ import annotations

import re
from decimal import Decimal
from random import Random

from training.data.phrase import Book, dressed, phrase, say
from training.data.problem import Family, Problem, Spec

_PLACES = ("tenths", "hundredths", "thousandths")
_ASK_TWO: dict[str, Book] = {
    "larger": {
        "en": (
            "Which is bigger, {a} or {b}?", "Which is larger, {a} or {b}?",
            "Which number is larger: {a} or {b}?", "What is bigger, {a} or {b}?",
            "{a} or {b}, which is bigger?", "{a} vs {b}, which is larger?", "{a} vs {b}",
            "Compare {a} and {b}.", "Is {a} bigger than {b}?", "Is {a} larger than {b}?",
            "{a} > {b}?", "Which one is greater: {a} or {b}?", "Find the larger of {a} and {b}.",
            "Tell me which is more, {a} or {b}.", "Of {a} and {b}, which is the greater number?",
            "Give me the bigger one: {a}, {b}", "Is {b} greater than {a}?", "{a} or {b}?",
            "Which is the larger number? {a} or {b}", "who is bigger {a} or {b}",
        ),
        "de": ("Was ist größer, {a} oder {b}?", "Welche Zahl ist größer: {a} oder {b}?"),
        "fr": ("Lequel est plus grand, {a} ou {b} ?",
            "Quel nombre est le plus grand : {a} ou {b} ?"),
        "es": ("¿Cuál es mayor, {a} o {b}?", "¿Qué número es mayor: {a} o {b}?"),
        "it": ("Qual è più grande, {a} o {b}?",),
        "pt": ("Qual é maior, {a} ou {b}?",),
        "zh": ("{a}和{b}哪个大？", "{a}和{b}哪个更大？"),
        "ja": ("{a}と{b}はどちらが大きいですか？",),
    },
    "smaller": {
        "en": (
            "Which is smaller, {a} or {b}?", "Which number is smaller: {a} or {b}?",
            "{a} or {b}, which is smaller?", "Is {a} smaller than {b}?", "{a} < {b}?",
            "Which is less, {a} or {b}?", "Find the smaller of {a} and {b}.",
            "Tell me which is less: {a} or {b}.", "What is smaller, {a} or {b}?",
        ),
        "de": ("Was ist kleiner, {a} oder {b}?",),
        "zh": ("{a}和{b}哪个小？",),
    },
}  # fmt: skip
_ASK_MORE: dict[str, Book] = {
    "larger": {"en": (
        "Which is the largest: {l}?", "Which is biggest, {l}?", "Find the largest of {l}.",
        "What is the largest number of {l}?", "Which of these is the greatest: {l}?",
        "Give me the maximum of {l}.", "max {l}", "Tell me the biggest: {l}",
        "Compare {l}. Which is the largest?", "The largest of {l}?",
    )},
    "smaller": {"en": (
        "Which is the smallest: {l}?", "Which is smallest, {l}?", "Find the smallest of {l}.",
        "What is the smallest number of {l}?", "Which of these is the least: {l}?",
        "Give me the minimum of {l}.", "min {l}", "Tell me the smallest: {l}",
    )},
}  # fmt: skip
_ANSWER_TWO: dict[str, Book] = {
    "larger": {
        "en": (
            "{r} is larger than {o}.", "{r} is bigger than {o}.", "**{r}** is larger than {o}.",
            "{r} is the larger number.", "{r} is bigger.",
        ),
        "de": ("{r} ist größer als {o}.",), "fr": ("{r} est plus grand que {o}.",),
        "es": ("{r} es mayor que {o}.",), "it": ("{r} è più grande di {o}.",),
        "pt": ("{r} é maior que {o}.",),
        "zh": ("{r}比{o}大。",), "ja": ("{r}のほうが大きいです。",),
    },
    "smaller": {
        "en": (
            "{r} is smaller than {o}.", "**{r}** is smaller than {o}.",
            "{r} is the smaller number.",
        ),
        "de": ("{r} ist kleiner als {o}.",), "zh": ("{r}比{o}小。",),
    },
}  # fmt: skip
_ANSWER_MORE: dict[str, Book] = {
    "larger": {"en": ("{r} is the largest.", "The largest is {r}.", "**{r}** is the largest.")},
    "smaller": {"en": ("{r} is the smallest.", "The smallest is {r}.", "**{r}** is the smallest.")},
}
_EQUAL = ("They are equal: {a} = {b}.", "{a} and {b} are equal.")


def _number(rng: Random, whole: int) -> str:
    places = rng.choices((0, 1, 2, 3), (6, 36, 40, 18))[0]
    return f"{whole}.{rng.randrange(10**places):0{places}d}" if places else str(whole)


def _set(rng: Random) -> list[str]:
    count = rng.choices((2, 3, 4), (70, 18, 12))[0]
    whole = rng.randrange(rng.choice((10, 10, 30, 100)))
    spread = rng.choices((0, 1, 40), (75, 15, 10))[0]
    numbers = [_number(rng, max(0, whole + rng.randint(-spread, spread))) for _ in range(count)]
    if rng.random() < 0.15:  # the same digits in front, one number going on: 3.4 and 3.41
        numbers[1] = numbers[0] + ("" if "." in numbers[0] else ".") + str(rng.randrange(10))
    return numbers


def draw(rng: Random) -> Spec:
    """``("larger" | "smaller", numbers as written)``; equal values only as a pair."""
    while True:
        numbers = _set(rng)
        longest = max(len(n.partition(".")[2]) for n in numbers)
        values = {Decimal(n) for n in numbers}
        if longest > 3 or len(set(numbers)) < len(numbers):
            continue
        if len(values) == len(numbers) or (len(numbers) == 2 and rng.random() < 0.5):
            return (rng.choices(("larger", "smaller"), (7, 3))[0], tuple(numbers))


def key(spec: Spec) -> str:
    """The set of numbers, so that both directions fall on the same side of the split."""
    return f"decimals:{','.join(sorted(spec[1]))}"


def result(spec: Spec) -> str:
    """The number asked for, as written, or "equal"."""
    kind, numbers = spec
    if len({Decimal(n) for n in numbers}) < len(numbers):
        return "equal"
    pick = max if kind == "larger" else min
    return str(pick(numbers, key=Decimal))


def _padded(numbers: tuple[str, ...]) -> list[str]:
    places = max(len(n.partition(".")[2]) for n in numbers)
    if not places:
        return list(numbers)
    parts = [n.partition(".") for n in numbers]
    return [f"{whole}.{digits.ljust(places, '0')}" for whole, _, digits in parts]


def _comparison(a: str, b: str) -> str:
    """``whole 9 = 9, tenths 1 < 9`` up to the first place that differs."""
    (whole_a, _, digits_a), (whole_b, _, digits_b) = a.partition("."), b.partition(".")
    places = [("whole", whole_a, whole_b), *zip(_PLACES, digits_a, digits_b, strict=False)]
    steps = []
    for name, x, y in places:
        sign = "=" if int(x) == int(y) else "<" if int(x) < int(y) else ">"
        steps.append(f"{name} {x} {sign} {y}")
        if sign != "=":
            break
    return ", ".join(steps)


def _thinking(spec: Spec) -> str:
    kind, numbers = spec
    padded = _padded(numbers)
    opening = "" if padded == list(numbers) else f"With equal places: {', '.join(padded)}. "
    best, written, steps = padded[0], numbers[0], []
    for other, shown in zip(padded[1:], numbers[1:], strict=True):
        steps.append(f"{best} and {other}: {_comparison(best, other)}")
        if result((kind, (best, other))) == other:
            best, written = other, shown
        if len(numbers) > 2:
            steps[-1] += f", so {best}"
    if result(spec) == "equal":
        return f"{opening}{steps[0]}. So they are equal."
    degree = kind if len(numbers) == 2 else {"larger": "largest", "smaller": "smallest"}[kind]
    return f"{opening}{'. '.join(steps)}. So {written} is the {degree}."


def _listed(numbers: tuple[str, ...], joint: str) -> str:
    return f"{', '.join(numbers[:-1])}{joint}{numbers[-1]}"


def write(rng: Random, spec: Spec, question: str | None) -> Problem:
    """The problem with steps and answer."""
    kind, numbers = spec
    found, language, pair = result(spec), "en", len(numbers) == 2
    if question is None and pair:
        question, language = phrase(rng, _ASK_TWO[kind], a=numbers[0], b=numbers[1])
    elif question is None:
        joint = rng.choice((", ", " and ", " or "))
        question, language = phrase(rng, _ASK_MORE[kind], l=_listed(numbers, joint))
    if found == "equal":
        answer = rng.choice(_EQUAL).format(a=numbers[0], b=numbers[1])
    else:
        other = next(n for n in numbers if n != found)
        book = _ANSWER_TWO[kind] if pair else _ANSWER_MORE[kind]
        answer = say(rng, book, language, r=found, o=other)
    reason = ""
    if found != "equal":
        reason = f"with equal places they read {_listed(tuple(_padded(numbers)), ' and ')}"
    return Problem("decimals", spec, question, _thinking(spec), answer, found, reason, language)


def grade(spec: Spec, answer: str) -> str:
    """The first number of an answer, or "equal"."""
    if "equal" in answer:
        return "equal"
    found = re.search(r"\d+(?:\.\d+)?", answer)
    return found.group() if found else ""


_FOLLOW = {
    "smaller": ("and the smallest?", "And which is smaller?", "which is the smallest one?"),
    "larger": ("and the largest?", "And which is larger?", "which is the largest one?"),
}


def follow(rng: Random, problem: Problem) -> tuple[Spec, str] | None:
    """The other direction on the same numbers."""
    kind = "smaller" if problem.spec[0] == "larger" else "larger"
    return (kind, problem.spec[1]), dressed(rng, rng.choice(_FOLLOW[kind]))


DECIMALS = Family("decimals", draw, write, key, grade, follow)
