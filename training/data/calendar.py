"""Calendar sums: weekdays, days between two dates, dates after so many days, leap years."""

from __future__ import annotations

import re
from random import Random

from training.data.phrase import Book, phrase, say
from training.data.problem import Family, Problem, Spec, no_follow

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_ASK: dict[str, Book] = {
    "after": {"en": (
        "What day of the week is it {n} after {w}?", "What day is {n} after {w}?",
        "Today is {w}. What day is it in {n}?", "If today is {w}, what day will it be in {n}?",
        "It is {w}. Which weekday is it {n} from now?", "Which weekday is {n} after a {w}?",
        "{n} after {w} is which day?", "{w} plus {n}?", "What weekday comes {n} after {w}?",
        "Today is {w}, what day of the week will it be {n} later?",
        "Starting on {w}, go {n} ahead.",
        "which day of the week is it {n} after {w}", "In {n} from {w} it will be which day?",
        "If it is {w} now, what day is it after {n}?", "{w} + {n}",
    )},
    "before": {"en": (
        "What day of the week was it {n} before {w}?", "What day is {n} before {w}?",
        "Today is {w}. What day was it {n} ago?", "If today is {w}, what day was it {n} ago?",
        "Which weekday is {n} before a {w}?", "{n} before {w} is which day?", "{w} minus {n}?",
        "It is {w}. Which weekday was it {n} earlier?",
    )},
    "between": {"en": (
        "How many days are there between {a} and {b}{y}?", "How many days from {a} to {b}{y}?",
        "Days between {a} and {b}{y}?", "How many days is it from {a} to {b}{y}?",
        "How many days lie between {a} and {b}{y}?", "Count the days from {a} to {b}{y}.",
        "If today is {a}, how many days until {b}{y}?", "days from {a} until {b}{y}",
        "What is the number of days from {a} to {b}{y}?", "It is {a}. How long until {b}{y}?",
    )},
    "date": {"en": (
        "What date is {n} after {a}{y}?", "What is the date {n} after {a}{y}?",
        "Which date is {n} after {a}{y}?", "Add {n} to {a}{y}.", "{a}{y} plus {n}?",
        "Today is {a}{y}. What date is it in {n}?", "What day of the year is {n} after {a}{y}?",
        "If it is {a}{y}, what is the date in {n}?", "{n} from {a}{y} is which date?",
    )},
    "leap": {"en": (
        "Is {n} a leap year?", "Was {n} a leap year?", "Is the year {n} a leap year?",
        "Does {n} have 366 days?", "leap year {n}?", "Tell me if {n} is a leap year.",
        "Check whether {n} is a leap year.", "Will {n} be a leap year?",
        "Does February {n} have 29 days?",
    ), "de": ("Ist {n} ein Schaltjahr?",), "fr": ("Est-ce que {n} est une année bissextile ?",),
       "es": ("¿Es {n} un año bisiesto?",)},
}  # fmt: skip
_ANSWER: dict[str, Book] = {
    "after": {"en": ("It is a {r}.", "{n} after {w} is a {r}.", "That is a **{r}**.", "{r}.")},
    "before": {"en": ("It was a {r}.", "{n} before {w} is a {r}.", "{r}.")},
    "between": {"en": (
        "From {a} to {b} it is {n}.", "There are {n} between {a} and {b}.", "It is **{n}**.",
        "{n}.",
    )},
    "date": {"en": ("{n} after {a} is {r}.", "It is {r}.", "That is **{r}**.", "{r}.")},
    "leap": {"en": ("{x}, {n} is {r}a leap year.",)},
}  # fmt: skip


def is_leap(year: int) -> bool:
    """The Gregorian rule."""
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def month_days(month: int, year: int | None) -> int:
    """Days of `month` (0 to 11); February has 28 where no year is known."""
    return _DAYS[month] + int(month == 1 and year is not None and is_leap(year))


def _day(rng: Random, year: int | None) -> tuple[int, int]:
    month = rng.randrange(12)
    return month, rng.randint(1, month_days(month, year))


def draw(rng: Random) -> Spec:
    """One of ``("after"|"before", weekday, n)``, ``("between", date, date, year)``,
    ``("date", date, n, year)``, ``("leap", year)``; a date is (month, day), a year may be None."""
    kind = rng.choices(("after", "before", "between", "date", "leap"), (30, 10, 26, 24, 10))[0]
    if kind == "leap":
        century = rng.random() < 0.15
        return (kind, rng.randint(10, 29) * 100 if century else rng.randint(1000, 2999))
    if kind in ("after", "before"):
        top = rng.choice((7, 30, 100, 366))
        return (kind, rng.randrange(7), rng.randint(1, top))
    year = rng.randint(1900, 2100) if rng.random() < 0.35 else None
    first, second = _day(rng, year), _day(rng, year)
    if kind == "date":
        n = rng.randint(1, rng.choice((20, 60, 120)))
        left = sum(month_days(m, year) for m in range(first[0], 12)) - first[1]
        return (kind, first, n, year if n <= left else None)
    first, second = sorted((first, second))
    return (kind, first, second, year) if first < second else draw(rng)


def key(spec: Spec) -> str:
    return str(spec)


def _date(date: tuple[int, int]) -> str:
    return f"{MONTHS[date[0]]} {date[1]}"


def _days(n: int | str) -> str:
    return "1 day" if str(n) == "1" else f"{n} days"


def _weekday(spec: Spec) -> tuple[str, str]:
    """Thinking without its last sentence, and the weekday."""
    kind, start, n = spec
    left, steps = n, []
    if left >= 70:
        steps.append(f"{left}-{left // 70 * 70}={left % 70}")
        left %= 70
    if left >= 7:
        steps.append(f"{left}-{left // 7 * 7}={left % 7}")
        left %= 7
    step = 1 if kind == "after" else -1
    days = [WEEKDAYS[(start + step * i) % 7] for i in range(1, left + 1)]
    opening = f"Weeks do not matter: {', '.join(steps)}, so {_days(left)} left. " if steps else ""
    walk = f"From {WEEKDAYS[start]}: {', '.join(days)}." if days else "The weekday stays the same."
    return opening + walk, WEEKDAYS[(start + step * n) % 7]


def _leap_note(year: int | None) -> str:
    if year is None:
        return ""
    length = 29 if is_leap(year) else 28
    return f"{_leap(year)[0]} So February {year} has {length} days. "


def _between(spec: Spec) -> tuple[str, str]:
    _, (month, day), (end_month, end_day), year = spec
    if month == end_month:
        total = end_day - day
        return f"The same month: {end_day}-{day}={total}.", str(total)
    total = month_days(month, year) - day
    note = _leap_note(year) if month <= 1 < end_month else ""
    steps = [f"{note}{MONTHS[month]}: {month_days(month, year)}-{day}={total}."]
    for m in range(month + 1, end_month + 1):
        length = end_day if m == end_month else month_days(m, year)
        steps.append(f"{MONTHS[m]}: {total}+{length}={total + length}.")
        total += length
    return " ".join(steps), str(total)


def _date_after(spec: Spec) -> tuple[str, str]:
    _, (month, day), n, year = spec
    length = month_days(month, year)
    note = _leap_note(year) if month <= 1 < _end_month(month, day + n, year) else ""
    steps = [f"{note}{day}+{n}={day + n}."]
    day += n
    while day > length:
        steps.append(f"{MONTHS[month]} has {length}: {day}-{length}={day - length}.")
        month, day = (month + 1) % 12, day - length
        length = month_days(month, year)
    steps.append(f"{MONTHS[month]} has {length}, enough.")
    return " ".join(steps), _date((month, day))


def _end_month(month: int, day: int, year: int | None) -> int:
    """The month that a day number counted from `month`'s start falls in, or passes into."""
    while day > month_days(month % 12, year):
        day -= month_days(month % 12, year)
        month += 1
    return month


def _leap(year: int) -> tuple[str, str]:
    hundreds, rest = divmod(year, 100)
    number, of = (hundreds, "ends in 00, so I take") if rest == 0 else (rest, "ends in")
    fours, over = divmod(number, 4)
    check = f"{number}=4*{fours}" + (f"+{over}" if over else "")
    verdict = "4 divides it" if over == 0 else "4 does not divide it"
    return f"{year} {of} {number:02d}, {check}, {verdict}.", "no" if over else "yes"


_STEPS = {
    "after": _weekday,
    "before": _weekday,
    "between": _between,
    "date": _date_after,
    "leap": lambda spec: _leap(spec[1]),
}


def _values(spec: Spec, found: str) -> dict[str, str]:
    """The fields that the templates of a kind take."""
    kind, *args = spec
    if kind == "leap":
        yes = found == "yes"
        return {"n": str(args[0]), "x": found.capitalize(), "r": "" if yes else "not "}
    if kind in ("after", "before"):
        return {"w": WEEKDAYS[args[0]], "n": _days(args[1]), "r": found}
    shown = f" in {args[2]}" if kind == "between" else f", {args[2]}"
    values = {"a": _date(args[0]), "y": shown if args[2] else "", "r": found}
    if kind == "between":
        return values | {"b": _date(args[1]), "n": _days(found)}
    return values | {"n": _days(args[1])}


def write(rng: Random, spec: Spec, question: str | None) -> Problem:
    """The problem with steps and answer."""
    kind, language = spec[0], "en"
    steps, found = _STEPS[kind](spec)
    values = _values(spec, found)
    if question is None:
        asked = dict(values)
        if kind in ("between", "date") and rng.random() < 0.25:
            for name in ("a", "b"):
                if name in asked:
                    month, day = str(asked[name]).split()
                    asked[name] = f"{day} {month}"
        question, language = phrase(rng, _ASK[kind], **asked)
    answer = say(rng, _ANSWER[kind], language, **values)
    closing = f"So {_days(found) if kind == 'between' else found}."
    return Problem("calendar", spec, question, f"{steps} {closing}", answer, found)


def grade(spec: Spec, answer: str) -> str:
    """The weekday, the number of days, the date, or yes/no in an answer."""
    patterns = {
        "between": r"(\d+) day",
        "date": rf"(?:{'|'.join(MONTHS)}) \d+",
        "leap": r"^\W*(Yes|No)\b",
    }
    found = re.findall(patterns.get(spec[0], "|".join(WEEKDAYS)), answer)
    last = str(found[-1]) if found else ""
    return last.lower() if spec[0] == "leap" else last


CALENDAR = Family("calendar", draw, write, key, grade, no_follow)
