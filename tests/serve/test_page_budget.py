"""The page's budget: a number or a word, as the server reads it; what is none is said."""

from __future__ import annotations

import random
from typing import Any

from qwen3_mlx.errors import OptionError
from qwen3_mlx.options.auto_budget import read_budget
from tests.serve.page_stub import Script, ask, ended, needs_chromium, wait_for

pytestmark = needs_chromium


def is_budget(text: str) -> bool:
    """Whether the server takes it: no text is no budget, and so none is wrong with it."""
    try:
        found = read_budget(text.strip() or "auto")
    except OptionError:
        return False
    return not (isinstance(found, int) and "-" in text)


TYPED: list[tuple[str, str | int | None]] = [
    ("auto", "auto"), (" Auto:2,048 ", "auto:2048"), ("low", "low"), ("medium", "medium"),
    ("high", "high"), ("1_024", 1024), ("0", 0), ("", None),
]  # fmt: skip


def test_a_budget_is_a_number_or_a_word(page: Any, script: Script) -> None:
    page.click("#gear")
    for asked, (typed, sent) in enumerate(TYPED, 1):
        page.fill("#budget", typed)
        ask(page, "Hi")
        wait_for(lambda asked=asked: len(script.asked) == asked)
        ended(page)
        assert script.asked[-1].get("thinking_budget") == sent
        assert not page.locator("#budget-wrong").is_visible()


def test_what_is_no_budget_is_said_and_nothing_is_sent(page: Any, script: Script) -> None:
    page.click("#gear")
    page.fill("#budget", "lots <b>")
    page.keyboard.press("Tab")
    page.wait_for_selector("#budget-wrong >> text=“lots <b>” is no thinking budget: write a number")
    page.click("#gear")
    ask(page, "Hi")
    page.wait_for_selector("#budget-wrong:visible")  # the settings opened again
    assert page.input_value("#input") == "Hi" and script.asked == []
    assert page.evaluate("document.activeElement.id") == "budget"
    page.select_option("#think", "off")  # where no budget is read
    assert not page.locator("#budget-wrong").is_visible()
    page.select_option("#think", "auto")
    assert page.locator("#budget-wrong").is_visible()
    page.fill("#budget", "auto")
    assert not page.locator("#budget-wrong").is_visible()
    page.keyboard.press("Enter")  # back to the message
    page.keyboard.press("Enter")
    ended(page)
    assert script.asked[0]["thinking_budget"] == "auto"


def test_the_page_and_the_server_take_the_same_budgets(page: Any) -> None:
    chance = random.Random(3)
    parts = ["auto", ":", "low", "high", "medium", "1", "0", "2048", ",", "_", " ", "-", ".5"]
    texts = ["".join(chance.choices(parts, k=chance.randint(1, 4))) for _ in range(2_000)]
    found = page.evaluate("texts => texts.map(text => readBudget(text).wrong ?? '')", texts)
    assert [not wrong for wrong in found] == [is_budget(text) for text in texts]
    assert 100 < sum(map(bool, found)) < 1_900


def test_a_thought_that_was_sure_says_so(page: Any, script: Script) -> None:
    script.thought, script.cut = ["step "], "sure"
    page.click("#gear")
    page.fill("#budget", "auto:512")
    script.gate.clear()
    ask(page, "Sum")
    page.wait_for_selector("text=/thinking · 1\\/512 tokens/")
    script.gate.set()
    ended(page)
    assert "✂ sure of the answer" in page.inner_text("details.thought summary")
