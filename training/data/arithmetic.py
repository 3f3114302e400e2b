"""Sums and differences of 1 to 5 digits, sums of several numbers, products up to 3 x 2 digits."""

from __future__ import annotations

import re
from random import Random

from training.data import columns
from training.data.phrase import Book, dressed, phrase, say
from training.data.problem import Family, Problem, Spec

ASK: Book = {
    "en": (
        "{e}", "{e}", "{e}", "{e} = ?", "{e}=", "{e}?", "What is {e}?", "What is {e}?",
        "What's {e}?", "Calculate {e}.", "Compute {e}", "How much is {e}?", "Solve {e}",
        "Can you work out {e}?", "Tell me {e}.", "Evaluate {e}.", "Work out {e}", "I need {e}",
        "Do you know what {e} is?", "Give me the result of {e}.", "What does {e} make?",
        "What is the value of {e}?", "Could you calculate {e} for me?", "Quick: {e}",
    ),
    "de": ("Was ist {e}?", "Wie viel ist {e}?", "Berechne {e}.", "Was ergibt {e}?"),
    "fr": ("Combien font {e} ?", "Calcule {e}.", "Que vaut {e} ?"),
    "es": ("¿Cuánto es {e}?", "Calcula {e}.", "¿Cuál es el resultado de {e}?"),
    "it": ("Quanto fa {e}?", "Calcola {e}."),
    "pt": ("Quanto é {e}?", "Calcule {e}."),
    "zh": ("{e}等于多少？", "计算{e}", "{e}是多少"),
    "ja": ("{e}はいくつですか？", "{e}を計算して"),
    "ru": ("Сколько будет {e}?", "Вычисли {e}"),
    "ar": ("كم يساوي {e}؟", "احسب {e}"),
    "tr": ("{e} kaç eder?",),
}  # fmt: skip
ANSWER: Book = {
    "en": (
        "{c} = {r}.", "{c} = {r}.", "{c} = {r}.", "{c} = **{r}**.", "The result is {r}.",
        "That is {r}.", "{c} = {r}",
    ),
    "de": ("{c} = {r}.", "Das ergibt {r}."),
    "fr": ("{c} = {r}.", "Cela fait {r}."),
    "es": ("{c} = {r}.", "El resultado es {r}."),
    "it": ("{c} = {r}.", "Fa {r}."),
    "pt": ("{c} = {r}.", "O resultado é {r}."),
    "zh": ("{c} = {r}。", "答案是{r}。"),
    "ja": ("{c} = {r}です。",),
}  # fmt: skip
_WORDS: dict[str, tuple[str, ...]] = {
    "add": (
        "Add {a} and {b}.", "What is the sum of {a} and {b}?", "What is {a} plus {b}?",
        "{a} plus {b}", "Add {b} to {a}.", "What do I get if I add {b} to {a}?",
        "I have {a} apples and get {b} more. How many do I have now?",
        "How much is {a} and {b} together?",
    ),
    "sub": (
        "Subtract {b} from {a}.", "What is {a} minus {b}?", "{a} minus {b}",
        "Take {b} away from {a}.", "How much is {a} less {b}?", "{a} take away {b}",
    ),
    "mul": (
        "Multiply {a} by {b}.", "What is {a} times {b}?", "{a} times {b}",
        "What is the product of {a} and {b}?", "How much is {a} times {b}?",
        "What is {a} multiplied by {b}?", "There are {a} boxes with {b} eggs each. How many eggs?",
    ),
    "sum": ("Add up {l}.", "What is the sum of {l}?", "Add {l}", "What is the total of {l}?"),
}  # fmt: skip
_SIGNS = {"add": ("+",), "sum": ("+",), "sub": ("-", "-", "-", "−", "–"), "mul": (
    "*", "*", "*", "x", "×", "·", "X")}  # fmt: skip
_PLAIN = {"add": "+", "sub": "-", "mul": "*", "sum": "+"}


def _number(rng: Random, digits: int) -> int:
    return rng.randrange(0 if digits == 1 else 10 ** (digits - 1), 10**digits)


def _digits(rng: Random) -> int:
    return rng.choices((1, 2, 3, 4, 5), (12, 28, 28, 18, 14))[0]


def draw_sum(rng: Random) -> Spec:
    """``("add" | "sub", a, b)`` or ``("sum", a, b, c[, d])``."""
    kind = rng.choices(("add", "sub", "sum"), (45, 40, 15))[0]
    if kind == "sum":
        return (kind, *(_number(rng, rng.randint(1, 3)) for _ in range(rng.choice((3, 3, 4)))))
    a, b = _number(rng, _digits(rng)), _number(rng, _digits(rng))
    if kind == "sub" and a < b and rng.random() < 0.6:
        a, b = b, a
    return (kind, a, b)


def draw_product(rng: Random) -> Spec:
    """``("mul", a, b)``: up to three digits by up to two, in either order."""
    sizes = ((1, 1), (2, 1), (3, 1), (2, 2), (3, 2))
    long, short = rng.choices(sizes, (6, 20, 16, 30, 28))[0]
    a, b = _number(rng, long), _number(rng, short)
    return ("mul", b, a) if rng.random() < 0.3 else ("mul", a, b)


def key(spec: Spec) -> str:
    """Operands of sums and products sorted; single-digit facts stay in training."""
    kind, *numbers = spec
    if kind != "sub":
        numbers.sort()
    tiny = "!" if len(numbers) == 2 and max(numbers) < 10 else ""
    return f"{kind}:{','.join(map(str, numbers))}{tiny}"


def value(spec: Spec) -> int:
    kind, a, *rest = spec
    if kind == "mul":
        return int(a * rest[0])
    return int(a - rest[0] if kind == "sub" else a + sum(rest))


def sum_steps(a: int, b: int) -> str:
    """The thinking for ``a + b`` (both >= 0), without opening and closing sentence."""
    if max(a, b) < 10:
        return f"{a}+{b}={a + b}."
    top, bottom = columns.lined_up(a, b)
    return f"Lined up: {top} + {bottom}. {columns.add(a, b)}"


def difference_steps(a: int, b: int) -> str:
    """The thinking for ``a - b`` (both >= 0); a negative result by way of ``b - a``."""
    if a < b:
        return f"{a} is less than {b}, so I take {b} - {a} and put a minus. " + (
            difference_steps(b, a)
        )
    if a < 10:
        return f"{a}-{b}={a - b}."
    top, bottom = columns.lined_up(a, b)
    return f"Lined up: {top} - {bottom}. {columns.subtract(a, b)}"


def product_steps(a: int, b: int) -> str:
    """The thinking for ``a * b``: one row per digit of the shorter factor, then their sum."""
    if max(a, b) < 10:
        return f"{a}*{b}={a * b}."
    if len(str(b)) > len(str(a)):
        return f"I turn it round: {b} * {a}. {product_steps(b, a)}"
    if b < 10:
        return columns.times_digit(a, b)
    tens, ones = divmod(b, 10)
    row = a * tens * 10
    upper = f"{a} * {tens}0. {columns.times_digit(a, tens)} With the zero: {row}."
    if ones == 0:
        return upper
    return (
        f"{b} is {tens}0 and {ones}. {a} * {ones}. {columns.times_digit(a, ones)} {upper} "
        f"Now {a * ones} + {row}. {sum_steps(a * ones, row)}"
    )


def _thinking(spec: Spec) -> str:
    kind, a, *rest = spec
    plain = _canonical(spec)
    if kind == "sum":
        steps = []
        for b in rest:
            steps.append(f"{a} + {b}. {sum_steps(a, b)}")
            a += b
        work = f"One after the other. {' '.join(steps)}"
    else:
        write = {"add": sum_steps, "sub": difference_steps, "mul": product_steps}[kind]
        work = f"{plain}. {write(a, rest[0])}"
    return f"{work} So {plain} = {value(spec)}."


def _canonical(spec: Spec) -> str:
    return f" {_PLAIN[spec[0]]} ".join(map(str, spec[1:]))


def _expression(rng: Random, spec: Spec) -> str:
    numbers = [str(n) for n in spec[1:]]
    if rng.random() < 0.03:
        numbers = [f"{n:,}" for n in spec[1:]]
    sign = rng.choice(_SIGNS[spec[0]])
    space = " " if rng.random() < 0.6 else ""
    return f"{space}{sign}{space}".join(numbers)


def _question(rng: Random, spec: Spec) -> tuple[str, str]:
    if rng.random() < 0.25:
        numbers = [str(n) for n in spec[1:]]
        listed = f"{', '.join(numbers[:-1])} and {numbers[-1]}"
        words = {"en": _WORDS[spec[0]]}
        return phrase(rng, words, a=numbers[0], b=numbers[1], l=listed)
    return phrase(rng, ASK, e=_expression(rng, spec))


def _reason(spec: Spec) -> str:
    kind, a, b, *_ = spec
    if kind == "mul" and b > 10 and b % 10:
        tens = b // 10 * 10
        return f"{a} * {tens} = {a * tens} and {a} * {b % 10} = {a * (b % 10)}"
    if kind == "sub" and 0 <= b <= a:
        return f"{a - b} + {b} = {a}"
    return ""


def write(rng: Random, spec: Spec, question: str | None) -> Problem:
    """The problem with steps and answer."""
    language = "en"
    if question is None:
        question, language = _question(rng, spec)
    result = str(value(spec))
    return Problem(
        family="multiplication" if spec[0] == "mul" else "addition",
        spec=spec,
        question=question,
        thinking=_thinking(spec),
        answer=say(rng, ANSWER, language, c=_canonical(spec), r=result),
        result=result,
        reason=_reason(spec),
        language=language,
    )


def last_number(spec: Spec, answer: str) -> str:
    """The last integer in an answer, thousands separators ignored."""
    found = re.findall(r"-?\d+", answer.replace(",", "").replace("−", "-"))
    return found[-1] if found else ""


_FOLLOW = {
    "add": ("and plus {n}?", "plus {n}?", "Now add {n}.", "+{n}", "and {n} more?",
        "add {n} to that"),
    "sub": ("and minus {n}?", "minus {n}?", "Now subtract {n}.", "-{n}", "take away {n}"),
    "mul": ("and times {n}?", "times {n}?", "Now multiply it by {n}.", "*{n}",
        "and that times {n}"),
}  # fmt: skip


def follow(rng: Random, problem: Problem) -> tuple[Spec, str] | None:
    """ "and times 3?" on the last result, where that is a number the families know."""
    last = int(problem.result)
    kind = rng.choice(("add", "sub", "mul"))
    if not 0 <= last <= (999 if kind == "mul" else 99_999):
        return None
    n = rng.randint(2, 9) if kind == "mul" else rng.choice((rng.randint(1, 9), rng.randint(10, 99)))
    return (kind, last, n), dressed(rng, rng.choice(_FOLLOW[kind]).format(n=n))


ADDITION = Family("addition", draw_sum, write, key, last_number, follow)
MULTIPLICATION = Family("multiplication", draw_product, write, key, last_number, follow)
