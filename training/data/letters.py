"""Spelling: how often a letter occurs, how many letters or vowels a word has, letter by letter."""

from __future__ import annotations

import re
from random import Random

from training.data.phrase import Book, dressed, phrase, say
from training.data.problem import Family, Problem, Spec
from training.data.words import any_word

_ASK: dict[str, Book] = {
    "count": {
        "en": (
            "How many {c}'s are in {w}?", "How many {c}'s in {w}?", "how many {c}'s in {w}",
            "How many {c} are in the word {w}?", "How many {c}s are there in {w}?",
            "How many times does {c} appear in {w}?", "Count the letter {c} in {w}.",
            "Count the {c}'s in {w}.", "How many times does the letter {c} occur in {w}?",
            "How often does {c} occur in {w}?", "How many letters {c} does {w} have?",
            "In the word {w}, how many {c}'s are there?", "number of {c} in {w}",
            "{w}: how many {c}?", "Tell me how many {c}'s {w} has.",
            "How many {c} does {w} contain?",
            "What is the number of {c}'s in {w}?", "Can you count the {c}'s in {w}?",
        ),
        "de": ("Wie viele {c} sind in {w}?", "Wie oft kommt {c} in {w} vor?",
               "Wie viele {c} hat das Wort {w}?"),
        "fr": ("Combien de {c} y a-t-il dans {w} ?", "Combien de {c} dans {w} ?"),
        "es": ("¿Cuántas {c} hay en {w}?", "¿Cuántas veces aparece {c} en {w}?"),
        "it": ("Quante {c} ci sono in {w}?",),
        "pt": ("Quantas letras {c} há em {w}?",),
        "zh": ("{w}里有几个{c}？", "{w}中有多少个字母{c}？"),
        "ja": ("{w}に{c}はいくつありますか？",),
    },
    "length": {"en": (
        "How many letters are in {w}?", "How many letters does {w} have?",
        "How long is the word {w}?",
        "Count the letters in {w}.", "How many letters in {w}?", "What is the length of {w}?",
        "number of letters in {w}", "How many characters does {w} have?",
    ), "de": ("Wie viele Buchstaben hat {w}?",), "fr": ("Combien de lettres dans {w} ?",)},
    "vowels": {"en": (
        "How many vowels are in {w}?", "Count the vowels in {w}.", "How many vowels does {w} have?",
        "How many vowels in {w}?", "number of vowels in {w}", "vowels in {w}?",
    )},
    "spell": {"en": (
        "Spell {w}.", "Can you spell {w}?", "How do you spell {w}?", "Spell the word {w}",
        "Spell {w} letter by letter.", "spell {w} for me",
    )},
}  # fmt: skip
_ANSWER: dict[str, Book] = {
    "count": {
        "en": (
            "The letter {c} occurs {t} in {w}.", "{w} has **{r}** {s}.", "{w} has {r} {s}.",
            "There {be} {r} {s} in {w}.", "There {be} {r} {s} in {w}.",
        ),
        "de": ("Das {c} kommt {r}-mal vor.",), "fr": ("Il y en a {r}.",),
        "es": ("Hay {r}.",), "it": ("Ce ne sono {r}.",), "pt": ("Há {r}.",),
        "zh": ("有{r}个。",), "ja": ("{r}個です。",),
    },
    "length": {"en": ("{w} has {r} letters.", "{w} has **{r}** letters.", "It has {r} letters."),
               "de": ("{w} hat {r} Buchstaben.",), "fr": ("Il y a {r} lettres.",)},
    "vowels": {"en": ("{w} has {r} {v}.", "There {be} {r} {v} in {w}.")},
    "spell": {"en": ("{w}: {h}.", "{h}", "{w} is spelled {h}.")},
}  # fmt: skip
VOWELS = "aeiou"


def _letter(rng: Random, word: str) -> str:
    if rng.random() < 0.85:
        return rng.choice(word)
    return rng.choice("abcdefghijklmnopqrstuvwxyz")


def draw(rng: Random) -> Spec:
    """``("count", word, letter)``, ``("length" | "vowels" | "spell", word)``; lower case."""
    kind = rng.choices(("count", "length", "vowels", "spell"), (66, 14, 12, 8))[0]
    word = any_word(rng)
    if kind != "count":
        return (kind, word)
    repeated = [c for c in word if word.count(c) > 1]
    letter = rng.choice(repeated) if repeated and rng.random() < 0.5 else _letter(rng, word)
    return (kind, word, letter)


def key(spec: Spec) -> str:
    return ":".join(spec)


def result(spec: Spec) -> str:
    """The number, or the letters with hyphens."""
    kind, word, *letter = spec
    if kind == "spell":
        return "-".join(word)
    wanted = {"count": "".join(letter), "length": word, "vowels": VOWELS}[kind]
    return str(sum(c in wanted for c in word))


def _thinking(spec: Spec) -> str:
    kind, word, *letter = spec
    if kind == "spell":
        return f"Letter by letter: {', '.join(word)}. So {result(spec)}."
    wanted = {"count": "".join(letter), "length": word, "vowels": VOWELS}[kind]
    seen, steps = 0, []
    for c in word:
        seen += c in wanted
        steps.append(f"{c} {seen}" if c in wanted else c)
    names = {"count": "".join(letter), "length": "letters", "vowels": "a, e, i, o, u"}[kind]
    return f"I spell {word} and count {names}: {', '.join(steps)}. That makes {seen}."


def _shown(rng: Random, word: str) -> str:
    draw_case = rng.random()
    if draw_case < 0.1:
        word = word.capitalize()
    elif draw_case < 0.14:
        word = word.upper()
    return f"{mark}{word}{mark}" if (mark := rng.choice(("", "", "", "'", '"'))) else word


def write(rng: Random, spec: Spec, question: str | None) -> Problem:
    """The problem with steps and answer."""
    kind, word, *rest = spec
    letter = "".join(rest)
    language = "en"
    if question is None:
        shown = rng.choices((letter, letter.upper(), f"'{letter}'"), (80, 12, 8))[0]
        question, language = phrase(rng, _ASK[kind], w=_shown(rng, word), c=shown)
    found = result(spec)
    one = found == "1"
    values = {
        "w": word, "c": letter, "r": found, "be": "is" if one else "are",
        "s": letter if one else f"{letter}'s", "v": "vowel" if one else "vowels",
        "t": "1 time" if one else f"{found} times", "h": found,
    }  # fmt: skip
    answer = say(rng, _ANSWER[kind], language, **values)
    reason = "" if kind == "spell" else f"the word is spelled {'-'.join(word)}"
    return Problem("letters", spec, question, _thinking(spec), answer, found, reason, language)


def grade(spec: Spec, answer: str) -> str:
    """The last integer of an answer; for spelling the last run of hyphenated letters."""
    found = re.findall(r"(?:\w-)+\w|\b\w\b" if spec[0] == "spell" else r"\d+", answer)
    return found[-1] if found else ""


def follow(rng: Random, problem: Problem) -> tuple[Spec, str] | None:
    """Another letter of the same word."""
    kind, word, *_ = problem.spec
    if kind != "count":
        return None
    letter = _letter(rng, word)
    asked = rng.choice(("and {c}?", "and how many {c}'s?", "How about {c}?", "And the letter {c}?"))
    return ("count", word, letter), dressed(rng, asked.format(c=letter))


LETTERS = Family("letters", draw, write, key, grade, follow)
