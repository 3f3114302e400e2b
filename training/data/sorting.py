"""Sorting numbers and words by selection, and reversing words and lists by counting places."""

from __future__ import annotations

import re
from itertools import groupby
from random import Random

from training.data.phrase import Book, dressed, phrase, say
from training.data.problem import Family, Problem, Spec, no_follow
from training.data.words import any_word, everyday

_ASK_SORT: dict[str, Book] = {
    "up": {
        "en": (
            "Sort {l}", "Sort {l}.", "sort {l}", "Sort these numbers: {l}", "Sort: {l}",
            "Put these in order: {l}", "Put {l} in ascending order.",
            "Sort {l} in ascending order.",
            "Arrange {l} from smallest to largest.", "Order these: {l}", "Can you sort {l}?",
            "Sort this list: {l}", "What is {l} in order?", "Sort from small to large: {l}",
            "Order {l} from least to greatest", "Give me {l} sorted.", "{l} sorted please",
        ),
        "de": ("Sortiere {l}", "Sortiere diese Liste: {l}", "Ordne {l} aufsteigend."),
        "fr": ("Trie {l}", "Range {l} dans l'ordre croissant."),
        "es": ("Ordena {l}", "Ordena {l} de menor a mayor."),
        "it": ("Ordina {l}",), "pt": ("Ordene {l}",), "zh": ("把{l}排序", "从小到大排列：{l}"),
        "ja": ("{l}を並べ替えて",),
    },
    "down": {"en": (
        "Sort {l} in descending order.", "Sort {l} descending",
        "Arrange {l} from largest to smallest.",
        "Sort from large to small: {l}", "Put {l} in descending order.", "Reverse sort {l}",
        "Order {l} from greatest to least.", "Sort {l}, biggest first.", "Sort downwards: {l}",
    ), "de": ("Sortiere {l} absteigend.",), "es": ("Ordena {l} de mayor a menor.",)},
}  # fmt: skip
_ASK_WORDS: dict[str, Book] = {
    "up": {"en": (
        "Sort {l}", "Sort these words: {l}", "Sort alphabetically: {l}", "Put {l} in order.",
        "Sort {l} alphabetically.", "Put these words in alphabetical order: {l}", "sort {l} a to z",
        "Arrange {l} in alphabetical order.", "Order these words: {l}", "Alphabetical order: {l}",
        "Can you sort {l}?", "Sort this list of words: {l}", "Sort {l} from A to Z.",
    ), "de": ("Sortiere {l} alphabetisch.", "Sortiere {l}"), "fr": ("Trie {l}",),
       "es": ("Ordena {l}",)},
    "down": {"en": (
        "Sort {l} from Z to A.", "Sort {l} in reverse alphabetical order.",
        "Put {l} in descending order.", "Sort {l} descending",
        "Arrange these words from z to a: {l}", "Reverse alphabetical order: {l}",
    )},
}  # fmt: skip
_SORTED: Book = {
    "en": ("Sorted: {r}.", "Sorted: **{r}**.", "In order: {r}.", "{r}", "The sorted list is: {r}."),
    "de": ("Sortiert: {r}.",), "fr": ("Dans l'ordre : {r}.",), "es": ("En orden: {r}.",),
    "it": ("In ordine: {r}.",), "zh": ("排序后：{r}",),
}  # fmt: skip


def _numbers(rng: Random) -> tuple[int, ...]:
    top = rng.choices((10, 100, 1000), (25, 50, 25))[0]
    low = -top // 2 if rng.random() < 0.08 else 0
    return tuple(
        rng.randrange(low, top)
        for _ in range(rng.choices(range(3, 9), (20, 22, 20, 16, 12, 10))[0])
    )


def _words(rng: Random) -> tuple[str, ...]:
    count = rng.choices((3, 4, 5, 6, 7), (28, 28, 22, 14, 8))[0]
    while True:
        make = everyday if rng.random() < 0.75 else any_word
        words = tuple(make(rng) for _ in range(count))
        if len({word[:3] for word in words}) == count and all(len(w) > 2 for w in words):
            return words


def draw_sort(rng: Random) -> Spec:
    """``("up" | "down", items)``: 3 to 8 integers, or 3 to 7 words that differ in 3 letters."""
    items = _numbers(rng) if rng.random() < 0.6 else _words(rng)
    return ("up" if rng.random() < 0.7 else "down", items)


def key_sort(spec: Spec) -> str:
    """The items in order, so that both directions fall on the same side of the split."""
    return f"sort:{','.join(map(str, sorted(spec[1])))}"


def _select(items: tuple[int, ...], down: bool) -> str:
    left, steps = list(items), []
    while len(left) > 1:
        pick = max(left) if down else min(left)
        steps.append(f"From {', '.join(map(str, left))} take {pick}.")
        left.remove(pick)
    return f"{' '.join(steps)} Last {left[0]}."


def _bucket(words: tuple[str, ...], down: bool) -> str:
    """By first letters; words that share one are told apart by two letters, or three."""
    steps = [f"First letters: {', '.join(f'{word} {word[0]}' for word in words)}."]
    ordered = sorted(words, reverse=down)
    for letter, group in groupby(ordered, key=lambda word: word[0]):
        same = list(group)
        if len(same) == 1:
            steps.append(f"{letter}: {same[0]}.")
            continue
        size = 2 if len({word[:2] for word in same}) == len(same) else 3
        spelled = [f"{word} {'-'.join(word[:size])}" for word in words if word[0] == letter]
        steps.append(f"{letter}: {', '.join(spelled)}, so {', '.join(same)}.")
    return " ".join(steps)


def _listed(rng: Random, items: tuple[object, ...]) -> str:
    style = rng.random()
    joint = ", " if style < 0.5 else " " if style < 0.8 else ","
    text = joint.join(map(str, items))
    if style > 0.95:
        return f"{', '.join(map(str, items[:-1]))} and {items[-1]}"
    return f"[{text}]" if joint != " " and rng.random() < 0.1 else text


def write_sort(rng: Random, spec: Spec, question: str | None) -> Problem:
    """The problem with steps and answer."""
    direction, items = spec
    number, down, language = isinstance(items[0], int), direction == "down", "en"
    if question is None:
        book = (_ASK_SORT if number else _ASK_WORDS)[direction]
        question, language = phrase(rng, book, l=_listed(rng, items))
    found = ", ".join(map(str, sorted(items, reverse=down)))
    steps = _select(items, down) if number else _bucket(items, down)
    return Problem(
        "sorting", spec, question, f"{steps} Sorted: {found}.",
        say(rng, _SORTED, language, r=found), found, language=language,
    )  # fmt: skip


def grade_list(spec: Spec, answer: str) -> str:
    """The text behind the last colon, as a comma-separated list."""
    text = re.split(r"[:：]", answer)[-1].strip(" .。\n[]*")
    return ", ".join(part.strip() for part in text.split(","))


_OTHER_WAY = ("now the other way round", "now sort it the other way", "and in the other order?",
              "Now the other direction, please.", "and backwards?",
              "the other way around?")  # fmt: skip


def follow_sort(rng: Random, problem: Problem) -> tuple[Spec, str] | None:
    """The same items in the other direction."""
    direction, items = problem.spec
    other = "down" if direction == "up" else "up"
    asked = {"down": ("and descending?",), "up": ("and ascending?",)}[other] + _OTHER_WAY
    return (other, items), dressed(rng, rng.choice(asked))


SORTING = Family("sorting", draw_sort, write_sort, key_sort, grade_list, follow_sort)

_PLACES = (
    "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen",
)  # fmt: skip
_ASK_REVERSE: dict[str, Book] = {
    "word": {
        "en": (
            "Reverse {l}", "Reverse {l}.", "reverse {l}", "Reverse the word {l}.",
            "Spell {l} backwards.", "Write {l} backwards.", "What is {l} backwards?",
            "{l} backwards", "What is {l} spelled backwards?", "Turn {l} around.",
            "How do you write {l} backwards?", "Reverse the letters of {l}.", "Flip the word {l}.",
            "Say {l} in reverse.", "Can you reverse {l}?", "Reverse this: {l}", "reverse: {l}",
        ),
        "de": ("Schreibe {l} rückwärts.", "Was ist {l} rückwärts?", "Drehe {l} um."),
        "fr": ("Écris {l} à l'envers.",), "es": ("Escribe {l} al revés.", "Invierte {l}"),
        "it": ("Scrivi {l} al contrario.",), "pt": ("Escreva {l} ao contrário.",),
        "zh": ("把{l}倒过来写", "反转{l}"), "ja": ("{l}を逆にして",),
    },
    "list": {"en": (
        "Reverse {l}", "Reverse this list: {l}", "Reverse the list {l}.",
        "Reverse the order of {l}.",
        "Write {l} in reverse order.", "Put {l} in reverse order.", "reverse: {l}",
        "List {l} backwards.", "Give me {l} backwards.", "Turn the list {l} around.",
        "What is {l} in reverse order?", "Can you reverse {l}?", "Flip the order: {l}",
        "From last to first: {l}", "{l} in reverse",
    ), "de": ("Drehe die Liste {l} um.",), "es": ("Invierte la lista {l}",)},
}  # fmt: skip
_REVERSED: Book = {
    "en": ("Reversed: {r}.", "Reversed: **{r}**.", "Backwards: {r}.", "{r}", "It is: {r}."),
    "de": ("Rückwärts: {r}.",), "fr": ("À l'envers : {r}.",), "es": ("Al revés: {r}.",),
    "it": ("Al contrario: {r}.",), "zh": ("倒过来：{r}",), "ja": ("逆：{r}",),
}  # fmt: skip


def draw_reverse(rng: Random) -> Spec:
    """``("word", text)`` (letters or digits) or ``("list", items)``."""
    kind = rng.random()
    if kind < 0.55:
        word = any_word(rng)
        return ("word", word.capitalize() if rng.random() < 0.1 else word)
    if kind < 0.65:
        return ("word", "".join(rng.choices("0123456789", k=rng.randint(3, 8))))
    if kind < 0.88:
        return ("list", tuple(str(n) for n in _numbers(rng) if n >= 0) or ("1", "2"))
    return ("list", tuple(everyday(rng) for _ in range(rng.randint(3, 7))))


def key_reverse(spec: Spec) -> str:
    return f"reverse:{spec[1].lower() if spec[0] == 'word' else ','.join(spec[1])}"


def write_reverse(rng: Random, spec: Spec, question: str | None) -> Problem:
    """The problem with steps and answer."""
    kind, items = spec
    language = "en"
    if question is None:
        mark = rng.choice(("", "", "", "'", '"'))
        shown = f"{mark}{items}{mark}" if kind == "word" else _listed(rng, items)
        question, language = phrase(rng, _ASK_REVERSE[kind], l=shown)
    found = items[::-1] if kind == "word" else ", ".join(reversed(items))
    placed = [f"{place} {item}" for place, item in zip(_PLACES, items, strict=False)]
    steps = f"In order: {', '.join(placed)}. Backwards: {', '.join(reversed(placed))}."
    return Problem(
        "reversing", spec, question, f"{steps} So {found}.",
        say(rng, _REVERSED, language, r=found), found, language=language,
    )  # fmt: skip


REVERSING = Family("reversing", draw_reverse, write_reverse, key_reverse, grade_list, no_follow)
