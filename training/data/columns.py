"""Sums, differences and one-digit products worked column by column, as on squared paper.

Every step names its column, does one single-digit sum, and repeats the result so far, so that each
token depends on a look-up and a copy.
"""

from __future__ import annotations

NAMES = ("Ones", "Tens", "Hundreds", "Thousands", "Ten thousands", "Hundred thousands")


def lined_up(a: int, b: int) -> tuple[str, str]:
    """Both numbers written with the same number of digits."""
    width = max(len(str(a)), len(str(b)))
    return str(a).zfill(width), str(b).zfill(width)


def add(a: int, b: int) -> str:
    """`a` + `b`, both >= 0: ``Ones: 7+5=12 → 2, carry 1. Tens: …``."""
    top, bottom = lined_up(a, b)
    steps, so_far, carry = [], "", 0
    for column, (x, y) in enumerate(zip(reversed(top), reversed(bottom), strict=True)):
        terms = f"{x}+{y}+1" if carry else f"{x}+{y}"
        total = int(x) + int(y) + carry
        last = column == len(top) - 1
        carry = total // 10
        so_far = (str(total) if last else str(total % 10)) + so_far
        after = ", carry 1" if carry and not last else ""
        steps.append(f"{NAMES[column]}: {terms}={total} → {so_far}{after}.")
    return " ".join(steps)


def subtract(a: int, b: int) -> str:
    """`a` - `b` for a >= b >= 0: ``Ones: 2-7, borrow, 12-7=5 → 5. Tens: …``."""
    top, bottom = lined_up(a, b)
    steps, so_far, borrow = [], "", 0
    for column, (x, y) in enumerate(zip(reversed(top), reversed(bottom), strict=True)):
        rest = f"-1-{y}" if borrow else f"-{y}"
        left = int(x) - borrow - int(y)
        borrow = int(left < 0)
        digit = left + 10 * borrow
        work = f"{x}{rest}, borrow, 1{x}{rest}={digit}" if borrow else f"{x}{rest}={digit}"
        so_far = str(digit) + so_far
        steps.append(f"{NAMES[column]}: {work} → {so_far}.")
    return " ".join(steps)


def times_digit(a: int, digit: int) -> str:
    """`a` * `digit`: ``Ones: 7*6=42 → 2, carry 4. Tens: 4*6+4=28 → 82, carry 2. …``."""
    steps, so_far, carry = [], "", 0
    text = str(a)
    for column, x in enumerate(reversed(text)):
        terms = f"{x}*{digit}+{carry}" if carry else f"{x}*{digit}"
        total = int(x) * digit + carry
        last = column == len(text) - 1
        carry = total // 10
        so_far = (str(total) if last else str(total % 10)) + so_far
        after = f", carry {carry}" if carry and not last else ""
        steps.append(f"{NAMES[column]}: {terms}={total} → {so_far}{after}.")
    return " ".join(steps)
