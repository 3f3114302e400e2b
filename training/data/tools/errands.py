"""Kinds of tools for what a model can't do alone: weather, units, timers, dice."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from random import Random

from training.data.calendar import WEEKDAYS
from training.data.phrase import Book, phrase
from training.data.problem import Family, Problem, Spec, no_follow
from training.data.tools.kinds import INTEGER, NUMBER, STRING, Kind, Parameter, Values, choice

_CITIES = """
Amsterdam Ankara Athens Atlanta Auckland Baghdad Bangkok Barcelona Basel Beijing Berlin Bergen Bern
Bogota Bonn Boston Bristol Brussels Budapest Cairo Calgary Chicago Cologne Copenhagen Dakar Dallas
Damascus Delhi Denver Detroit Dresden Dublin Dubai Edinburgh Florence Frankfurt Geneva Genoa Ghent
Glasgow Graz Hamburg Hanoi Havana Helsinki Houston Istanbul Jakarta Kabul Kyoto Lagos Leeds Leipzig
Lima Lisbon Liverpool London Lyon Madrid Manila Marseille Melbourne Miami Milan Montreal Moscow
Mumbai Munich Nairobi Nantes Naples Nice Oslo Ottawa Oxford Palermo Paris Perth Porto Prague Quebec
Riga Rome Rotterdam Salzburg Santiago Seattle Seoul Seville Shanghai Singapore Sofia Stockholm
Sydney Taipei Tallinn Tehran Tokyo Toronto Tunis Turin Utrecht Valencia Vancouver Venice Vienna
Vilnius Warsaw Washington York Zagreb Zurich
"""
CITIES = tuple(_CITIES.split())
_SKIES = ("rain", "sun", "snow", "clouds", "wind", "fog", "light rain", "clear sky")
_WHEN = ("today", "tomorrow", *WEEKDAYS)
_LABELS = ("tea", "coffee", "pasta", "rice", "eggs", "bread", "pizza", "soup", "the cake",
           "a break", "the oven", "homework", "reading", "a walk", "the laundry")  # fmt: skip
_RATES = {
    ("kilometers", "miles"): "0.62137", ("miles", "kilometers"): "1.60934",
    ("meters", "feet"): "3.28084", ("feet", "meters"): "0.3048",
    ("kilograms", "pounds"): "2.20462", ("pounds", "kilograms"): "0.45359",
    ("inches", "centimeters"): "2.54", ("centimeters", "inches"): "0.3937",
    ("hours", "minutes"): "60", ("minutes", "seconds"): "60", ("days", "hours"): "24",
    ("liters", "gallons"): "0.26417", ("gallons", "liters"): "3.78541", ("weeks", "days"): "7",
}  # fmt: skip

_ASK_WEATHER: dict[str, Book] = {
    "now": {"en": (
        "What is the weather in {c}?", "What's the weather like in {c}?",
        "How is the weather in {c}?",
        "Weather in {c}?", "Is it raining in {c}?", "Do I need an umbrella in {c}?",
        "How warm is it in {c}?", "Tell me the weather in {c}.", "How cold is it in {c}?",
        "What is the temperature in {c}?", "Is it sunny in {c}?",
        "I am in {c}. How is the weather?",
    )},
    "day": {"en": (
        "What is the weather in {c} {d}?", "How will the weather be in {c} {d}?",
        "Weather in {c} {d}?", "Will it rain in {c} {d}?", "Do I need an umbrella in {c} {d}?",
        "How warm will it be in {c} {d}?", "Tell me the weather in {c} {d}.",
        "I go to {c} {d}. How is the weather?", "Will it be cold in {c} {d}?",
    )},
}  # fmt: skip
_ASK_CONVERT: Book = {"en": (
    "Convert {v} {a} to {b}.", "How many {b} are {v} {a}?", "What is {v} {a} in {b}?",
    "{v} {a} in {b}", "{v} {a} to {b}", "Change {v} {a} into {b}.", "How much is {v} {a} in {b}?",
    "Give me {v} {a} in {b}.", "Turn {v} {a} into {b}.", "I have {v} {a}. How many {b} is that?",
)}  # fmt: skip
_ASK_TIMER: dict[str, Book] = {
    "plain": {"en": (
        "Set a timer for {m} minutes.", "Start a timer of {m} minutes.", "Timer for {m} minutes",
        "Wake me in {m} minutes.", "Remind me in {m} minutes.", "Set a {m} minute timer.",
        "Start a {m} minute timer.", "Tell me when {m} minutes are over.", "{m} minute timer",
    )},
    "label": {"en": (
        "Set a timer for {m} minutes for {l}.", "Start a timer of {m} minutes for {l}.",
        "Remind me of {l} in {m} minutes.", "Set a {m} minute timer for {l}.",
        "Timer for {l}: {m} minutes", "I need a timer for {l}, {m} minutes.",
    )},
}  # fmt: skip
_ASK_DICE: dict[str, Book] = {
    "one": {"en": (
        "Roll a die with {s} sides.", "Throw a die with {s} sides.", "Roll a {s} sided die.",
        "Roll a d{s}.", "Roll a d{s} for me", "Can you roll a die with {s} sides?",
    )},
    "many": {"en": (
        "Roll {n} dice with {s} sides.", "Throw {n} dice with {s} sides each.",
        "Roll {n} {s} sided dice.", "Roll {n}d{s}.", "Can you roll {n} dice with {s} sides?",
    )},
}  # fmt: skip


def _problem(name: str, spec: Spec, asked: tuple[str, str], answer: str, result: str) -> Problem:
    return Problem(name, spec, asked[0], "", answer, result, "", asked[1])


def draw_weather(rng: Random) -> Spec:
    """``(city, when or "", "celsius" | "fahrenheit")``."""
    when = rng.choice(_WHEN) if rng.random() < 0.6 else ""
    return (rng.choice(CITIES), when, "fahrenheit" if rng.random() < 0.3 else "celsius")


def write_weather(rng: Random, spec: Spec, question: str | None) -> Problem:
    city, when, unit = spec
    shown = f"on {when}" if when in WEEKDAYS else when
    text, language = phrase(rng, _ASK_WEATHER["day" if when else "now"], c=city, d=shown)
    if unit == "fahrenheit":
        text = f"{text.rstrip()} {rng.choice(('In Fahrenheit, please.', 'Use Fahrenheit.'))}"
    result = f"{rng.randint(-9, 99)} degrees, {rng.choice(_SKIES)}"
    answer = rng.choice((f"In {city}: {result}.", f"{city}: {result}.", f"It is {result}."))
    return _problem("weather", spec, (text, language), answer, result)


def draw_convert(rng: Random) -> Spec:
    """``(value as written, unit, unit)``."""
    value = str(rng.randint(1, rng.choice((20, 100, 999))))
    if rng.random() < 0.25:
        value += f".{rng.randint(1, 9)}"
    return (value, *rng.choice(tuple(_RATES)))


def write_convert(rng: Random, spec: Spec, question: str | None) -> Problem:
    value, unit, other = spec
    asked = phrase(rng, _ASK_CONVERT, v=value, a=unit, b=other)
    exact = Decimal(value) * Decimal(_RATES[unit, other])
    result = f"{exact.quantize(Decimal('0.01')).normalize():f}"
    answer = rng.choice((
        f"{value} {unit} are {result} {other}.", f"That is {result} {other}.",
        f"It is {result} {other}.",
    ))  # fmt: skip
    return _problem("convert", spec, asked, answer, result)


def draw_timer(rng: Random) -> Spec:
    """``(minutes, label or "")``."""
    return (rng.randint(2, 180), rng.choice(_LABELS) if rng.random() < 0.6 else "")


def write_timer(rng: Random, spec: Spec, question: str | None) -> Problem:
    minutes, label = spec
    asked = phrase(rng, _ASK_TIMER["label" if label else "plain"], m=minutes, l=label)
    result = rng.choice(("ok", "done", f"timer set: {minutes} minutes", "started"))
    answer = rng.choice((
        f"The timer runs: {minutes} minutes.", f"I have set a timer for {minutes} minutes.",
        f"Done: {minutes} minutes.",
    ))  # fmt: skip
    return _problem("timer", spec, asked, answer, result)


def draw_dice(rng: Random) -> Spec:
    """``(sides, count)``."""
    return (rng.randint(4, 120), rng.randint(2, 9) if rng.random() < 0.7 else 1)


def write_dice(rng: Random, spec: Spec, question: str | None) -> Problem:
    sides, count = spec
    asked = phrase(rng, _ASK_DICE["one" if count == 1 else "many"], s=sides, n=count)
    result = ", ".join(str(rng.randint(1, sides)) for _ in range(count))
    answer = rng.choice((f"You rolled {result}.", f"The result: {result}.", f"{result}."))
    return _problem("dice", spec, asked, answer, result)


def _family(
    name: str,
    draw: Callable[[Random], Spec],
    write: Callable[[Random, Spec, str | None], Problem],
) -> Family:
    return Family(
        name, draw, write, lambda spec: f"{name}:{spec}", lambda spec, answer: answer, no_follow
    )


WEATHER_FAMILY = _family("weather", draw_weather, write_weather)
CONVERT_FAMILY = _family("convert", draw_convert, write_convert)
TIMER_FAMILY = _family("timer", draw_timer, write_timer)
DICE_FAMILY = _family("dice", draw_dice, write_dice)


def _weather(spec: Spec) -> Values:
    city, when, unit = spec
    values = {"city": json.dumps(city)}
    if when:
        values["day"] = json.dumps(when)
    return values if unit == "celsius" else values | {"unit": json.dumps(unit)}


def _timer(spec: Spec) -> Values:
    minutes, label = spec
    return {"minutes": str(minutes)} | ({"label": json.dumps(label)} if label else {})


WEATHER = Kind(
    "weather",
    ("weather", "get_weather", "get_weather", "forecast", "weather_report"),
    ("The weather in a city.", "Get the weather.", "Look up the weather of a place."),
    [Parameter(
        "city", STRING, ("city", "city", "location", "place"), ("The city.", "Where."),
    ), Parameter(
        "day", STRING, ("day", "day", "date", "when"),
        ("The day, such as tomorrow or Friday.", "When."), "today", True,
    ), Parameter(
        "unit", choice("celsius", "fahrenheit"), ("unit", "unit", "units", "scale"),
        ("celsius or fahrenheit", "The unit of the temperature."), "celsius", True,
    )],
    (WEATHER_FAMILY,), lambda spec: True, _weather, skill=False,
)  # fmt: skip
CONVERT = Kind(
    "convert",
    ("convert", "convert_units", "unit_converter", "change_unit"),
    ("Convert between units.", "Change a quantity into another unit.", "A converter of units."),
    [Parameter(
        "value", NUMBER, ("value", "value", "amount", "quantity"), ("The number.", "How much."),
    ), Parameter(
        "from", STRING, ("from_unit", "from", "unit", "source"),
        ("The unit it has.", "The unit to convert from."),
    ), Parameter(
        "to", STRING, ("to_unit", "to", "target", "new_unit"),
        ("The unit it is to have.", "The unit to convert to."),
    )],
    (CONVERT_FAMILY,), lambda spec: True,
    lambda spec: {"value": spec[0], "from": json.dumps(spec[1]), "to": json.dumps(spec[2])},
    skill=False,
)  # fmt: skip
TIMER = Kind(
    "timer",
    ("timer", "set_timer", "set_timer", "start_timer", "reminder"),
    ("Set a timer.", "Start a timer that rings after some minutes.", "Ring in some minutes."),
    [Parameter(
        "minutes", INTEGER, ("minutes", "minutes", "time", "duration"),
        ("How many minutes.", "The minutes."),
    ), Parameter(
        "label", STRING, ("label", "label", "name", "note"),
        ("What it is for.", "A name for the timer."), "timer", True,
    )],
    (TIMER_FAMILY,), lambda spec: True, _timer, skill=False,
)  # fmt: skip
DICE = Kind(
    "dice",
    ("dice", "roll_dice", "roll_dice", "throw_dice", "random_dice"),
    ("Roll dice.", "Throw some dice.", "Roll dice with any number of sides."),
    [Parameter(
        "sides", INTEGER, ("sides", "sides", "faces"), ("The sides of a die.", "How many sides."),
    ), Parameter(
        "count", INTEGER, ("count", "count", "dice", "number"),
        ("How many dice.", "The number of dice."), 1, True,
    )],
    (DICE_FAMILY,), lambda spec: True,
    lambda spec: {"sides": str(spec[0])} | ({"count": str(spec[1])} if spec[1] > 1 else {}),
    skill=False,
)  # fmt: skip

ERRANDS = (WEATHER, CONVERT, TIMER, DICE)
