"""Kinds of tools for what the model can also work out itself: sums, dates, lists, letters."""

from __future__ import annotations

import json

from training.data.arithmetic import ADDITION, MULTIPLICATION
from training.data.calendar import CALENDAR, MONTHS, WEEKDAYS
from training.data.chains import CHAINS, text
from training.data.decimals import DECIMALS
from training.data.letters import LETTERS
from training.data.problem import Spec
from training.data.sorting import REVERSING, SORTING
from training.data.tools.kinds import (
    INTEGER,
    INTEGERS,
    NUMBERS,
    STRING,
    STRINGS,
    Kind,
    Parameter,
    Values,
    choice,
)

_SIGNS = {"add": " + ", "sum": " + ", "sub": " - ", "mul": " * "}
_ORDERS = {"up": "ascending", "down": "descending"}


def expression(spec: Spec) -> str:
    """A sum, product or chain with blanks around its signs."""
    if spec[0] == "chain":
        return text(spec[1])
    return _SIGNS[spec[0]].join(map(str, spec[1:]))


def _date(day: tuple[int, int]) -> str:
    return f'"{MONTHS[day[0]]} {day[1]}"'


def _year(year: int | None) -> Values:
    return {} if year is None else {"year": str(year)}


def _sorted(spec: Spec) -> Values:
    order = {"order": '"descending"'} if spec[0] == "down" else {}
    return {"items": json.dumps(list(spec[1]))} | order


def _compared(spec: Spec) -> Values:
    pick = "largest" if spec[0] == "larger" else "smallest"
    return {"numbers": f"[{', '.join(spec[1])}]", "pick": f'"{pick}"'}


def _weekday(spec: Spec) -> Values:
    kind, start, days = spec
    way = {"direction": '"before"'} if kind == "before" else {}
    return {"day": f'"{WEEKDAYS[start]}"', "days": str(days)} | way


_ORDER = Parameter(
    "order",
    choice("ascending", "descending"),
    ("order", "order", "direction", "sort_order"),
    ("Which way to sort.", "ascending or descending", "The order."),
    "ascending",
    True,
)
_YEAR = Parameter(
    "year", INTEGER, ("year",), ("The year, if it matters.", "The year."), optional=True
)

CALCULATOR = Kind(
    "calculator",
    ("calculator", "calculator", "calculate", "calc", "evaluate", "compute", "math"),
    (
        "Work out an arithmetic expression.", "Calculate the value of an expression.",
        "Does sums: plus, minus, times and brackets.", "Evaluate an expression of numbers.",
        "A calculator.",
    ),
    [Parameter(
        "expression", STRING, ("expression", "expression", "formula", "sum", "input"),
        ("The expression, such as 2 + 3 * 4.", "What to calculate.", "The expression to evaluate."),
    )],
    (ADDITION, MULTIPLICATION, CHAINS),
    lambda spec: True,
    lambda spec: {"expression": json.dumps(expression(spec))},
)  # fmt: skip
SORT_NUMBERS = Kind(
    "sort_numbers",
    ("sort_numbers", "sort_numbers", "sorter", "order_numbers", "sort_integers"),
    (
        "Sort a list of numbers.", "Put numbers in order.", "Sorts numbers up or down.",
        "Arrange numbers from small to large, or the other way.",
    ),
    [Parameter(
        "items", INTEGERS, ("numbers", "numbers", "items", "values", "list"),
        ("The numbers.", "The numbers to sort.", "What to sort."),
    ), _ORDER],
    (SORTING,),
    lambda spec: isinstance(spec[1][0], int),
    _sorted,
)  # fmt: skip
SORT_WORDS = Kind(
    "sort_words",
    ("sort_words", "sort_words", "alphabetical", "order_words", "sort_text"),
    (
        "Sort a list of words.", "Put words in alphabetical order.", "Sorts words from a to z.",
        "Arrange words alphabetically, or the other way.",
    ),
    [Parameter(
        "items", STRINGS, ("words", "words", "items", "values", "list"),
        ("The words.", "The words to sort.", "What to sort."),
    ), _ORDER],
    (SORTING,),
    lambda spec: isinstance(spec[1][0], str),
    _sorted,
)  # fmt: skip
REVERSE_TEXT = Kind(
    "reverse_text",
    ("reverse_text", "reverse_word", "reverse_string", "backwards", "flip_text"),
    (
        "Reverse the letters of a word.", "Write a word backwards.", "Spell a text backwards.",
        "Turn a word around, letter by letter.",
    ),
    [Parameter(
        "text", STRING, ("text", "word", "string", "input"),
        ("The word.", "What to reverse.", "The text to turn around."),
    )],
    (REVERSING,),
    lambda spec: spec[0] == "word",
    lambda spec: {"text": json.dumps(spec[1])},
)  # fmt: skip
REVERSE_LIST = Kind(
    "reverse_list",
    ("reverse_list", "reverse_order", "flip_list", "reverse_items"),
    (
        "Reverse the order of a list.", "Put a list in reverse order.",
        "Turn a list around: the last item first.",
    ),
    [Parameter(
        "items", STRINGS, ("items", "items", "list", "values"),
        ("The items.", "The list to reverse.", "What to turn around."),
    )],
    (REVERSING,),
    lambda spec: spec[0] == "list",
    lambda spec: {"items": json.dumps(list(spec[1]))},
)  # fmt: skip
COUNT_LETTER = Kind(
    "count_letter",
    ("count_letter", "count_letter", "letter_count", "count_letters", "count_character"),
    (
        "Count how often a letter is in a word.", "Count a letter in a word.",
        "How many times a letter occurs in a word.",
    ),
    [Parameter(
        "word", STRING, ("word", "word", "text", "string"),
        ("The word.", "The word to look at."),
    ), Parameter(
        "letter", STRING, ("letter", "letter", "character", "char"),
        ("The letter.", "The letter to count."),
    )],
    (LETTERS,),
    lambda spec: spec[0] == "count",
    lambda spec: {"word": json.dumps(spec[1]), "letter": json.dumps(spec[2])},
)  # fmt: skip
WORD_LENGTH = Kind(
    "word_length",
    ("word_length", "word_length", "length", "text_length", "count_all_letters"),
    (
        "How many letters a word has.", "Count the letters of a word.", "The length of a word.",
    ),
    [Parameter(
        "word", STRING, ("word", "word", "text", "string"),
        ("The word.", "The word to measure."),
    )],
    (LETTERS,),
    lambda spec: spec[0] == "length",
    lambda spec: {"word": json.dumps(spec[1])},
)  # fmt: skip
COMPARE_NUMBERS = Kind(
    "compare_numbers",
    ("compare_numbers", "compare", "pick_number", "largest_or_smallest", "extreme"),
    (
        "Find the largest or the smallest of some numbers.", "Compare numbers.",
        "Pick the largest or smallest number.", "Tells which number is largest or smallest.",
    ),
    [Parameter(
        "numbers", NUMBERS, ("numbers", "numbers", "values", "list"),
        ("The numbers.", "The numbers to compare."),
    ), Parameter(
        "pick", choice("largest", "smallest"), ("pick", "which", "find", "mode"),
        ("largest or smallest", "Which one to find."),
    )],
    (DECIMALS,),
    lambda spec: True,
    _compared,
)  # fmt: skip
WEEKDAY = Kind(
    "weekday",
    ("weekday", "weekday", "weekday_after", "day_of_week", "find_weekday"),
    (
        "Find the weekday so many days after or before another.", "Count on from a weekday.",
        "Which weekday it is some days later or earlier.",
    ),
    [Parameter(
        "day", STRING, ("day", "day", "weekday", "start"),
        ("The weekday to start from.", "The weekday."),
    ), Parameter(
        "days", INTEGER, ("days", "days", "count", "number"),
        ("How many days.", "The number of days."),
    ), Parameter(
        "direction", choice("after", "before"), ("direction", "direction", "way", "when"),
        ("after or before", "Whether to count on or back."), "after", True,
    )],
    (CALENDAR,),
    lambda spec: spec[0] in ("after", "before"),
    _weekday,
)  # fmt: skip
DAYS_BETWEEN = Kind(
    "days_between",
    ("days_between", "days_between", "count_days", "date_difference", "calendar_days"),
    (
        "Count the days between two dates.", "How many days lie between two dates.",
        "The number of days from one date to another.",
    ),
    [Parameter(
        "start", STRING, ("start", "start_date", "first", "from"),
        ("The first date, such as March 3.", "The first date."),
    ), Parameter(
        "end", STRING, ("end", "end_date", "second", "to"),
        ("The second date, such as May 20.", "The second date."),
    ), _YEAR],
    (CALENDAR,),
    lambda spec: spec[0] == "between",
    lambda spec: {"start": _date(spec[1]), "end": _date(spec[2])} | _year(spec[3]),
)  # fmt: skip
ADD_DAYS = Kind(
    "add_days",
    ("add_days", "add_days", "calendar", "date_after", "date_plus_days"),
    (
        "Find the date so many days after another.", "Add days to a date.",
        "Which date it is some days later.",
    ),
    [Parameter(
        "date", STRING, ("date", "date", "start", "from"),
        ("The date to start from, such as March 3.", "The date."),
    ), Parameter(
        "days", INTEGER, ("days", "days", "count", "number"),
        ("How many days.", "The days to add."),
    ), _YEAR],
    (CALENDAR,),
    lambda spec: spec[0] == "date",
    lambda spec: {"date": _date(spec[1]), "days": str(spec[2])} | _year(spec[3]),
)  # fmt: skip
LEAP_YEAR = Kind(
    "leap_year",
    ("leap_year", "is_leap_year", "leap_year", "check_leap_year"),
    (
        "Tell whether a year is a leap year.", "Check for a leap year.",
        "Whether February has 29 days in a year.",
    ),
    [Parameter("year", INTEGER, ("year", "year", "number"), ("The year.", "The year to check."))],
    (CALENDAR,),
    lambda spec: spec[0] == "leap",
    lambda spec: {"year": str(spec[1])},
)  # fmt: skip

SKILLS = (
    CALCULATOR, SORT_NUMBERS, SORT_WORDS, REVERSE_TEXT, REVERSE_LIST, COUNT_LETTER, WORD_LENGTH,
    COMPARE_NUMBERS, WEEKDAY, DAYS_BETWEEN, ADD_DAYS, LEAP_YEAR,
)  # fmt: skip
