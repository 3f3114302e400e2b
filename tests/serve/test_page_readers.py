"""Who reads the page otherwise: from the right, on paper, by ear, through an input method."""

from __future__ import annotations

from typing import Any

import pytest

from tests.serve.page_stub import Script, ask, ended, needs_chromium

pytestmark = needs_chromium
HEBREW = "שלום (hello) עולם."


def test_a_text_runs_as_its_first_letter_does(page: Any, script: Script) -> None:
    script.answer = [
        f"{HEBREW}\n\n- {HEBREW}\n\n> {HEBREW}\n\nAn English (שלום) line.\n\n",
        f"```\n# {HEBREW}\n```\n\n|{HEBREW}|b|\n|--|:--|\n|{HEBREW}|{HEBREW}|\n",
    ]
    ask(page, HEBREW)
    ended(page)
    sides = page.evaluate("""() => Object.fromEntries(
      [".answer > div:nth-child(1) p", ".answer li", ".answer blockquote p", "pre code", "th",
       ".answer > div:nth-child(4) p", "td:nth-child(2)"].map(name => {
        const element = document.querySelector(name), range = document.createRange();
        range.selectNodeContents(element);
        const text = range.getBoundingClientRect();
        const box = element.closest(".code pre, td, th, .answer > div").getBoundingClientRect();
        const left = text.left - box.left, right = box.right - text.right;
        return [name, left > right + 1 ? "right" : left < right - 1 ? "left" : "same"];
      }))""")
    assert [sides[name] for name in (".answer > div:nth-child(1) p", ".answer li")] == ["right"] * 2
    assert sides[".answer blockquote p"] == "right"
    assert sides["pre code"] == sides[".answer > div:nth-child(4) p"] == "left"
    dot = """name => {
      const text = document.querySelector(name).firstChild, left = at => {
        const range = document.createRange();
        range.setStart(text, at); range.setEnd(text, at + 1);
        return range.getBoundingClientRect().left;
      };
      return left(text.length - 1) < left(0);
    }"""
    for name in ("article.user .text", ".answer p", ".answer li", "th"):
        assert page.evaluate(dot, name), f"the full stop of {name} is at the left"


def test_all_of_a_long_answer_is_printed_dark_on_light(page: Any, script: Script) -> None:
    script.answer = ["line\n\n"] * 300
    page.click("#theme")
    page.click("#theme")
    ask(page, "Go")
    ended(page)
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollHeight > 5000")
    assert page.evaluate("getComputedStyle(main).overflowY") == "visible"
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(29, 29, 36)"
    for hidden in ("#form", "#gear", ".tools >> nth=0"):
        assert not page.locator(hidden).is_visible()


def test_a_screen_reader_waits_for_the_whole_and_hears_the_theme(page: Any, script: Script) -> None:
    script.answer, script.pause = ["word "] * 20, 0.05
    ask(page, "Go")
    page.wait_for_selector("article.assistant[aria-busy=true]")
    ended(page)
    assert page.locator("[aria-busy=true]").count() == 0
    page.click("#theme")
    assert page.get_by_role("button", name="Theme: light").is_visible()


def test_the_key_that_ends_a_composition_sends_nothing(page: Any, script: Script) -> None:
    """Safari says isComposing too early; its key code is 229 then, as everywhere."""
    page.fill("#input", "日本")
    press = """([key, more]) => document.getElementById("input").dispatchEvent(
      new KeyboardEvent("keydown", {key, bubbles: true, cancelable: true, ...more}))"""
    page.evaluate(press, ["Enter", {"keyCode": 229}])
    page.evaluate(press, ["Enter", {"isComposing": True}])
    assert page.input_value("#input") == "日本" and script.asked == []
    script.answer, script.pause = ["word "] * 10, 0.05
    page.keyboard.press("Enter")
    page.wait_for_selector("text=answering")
    page.evaluate(press, ["Escape", {"keyCode": 229}])
    page.evaluate(press, ["Escape", {"isComposing": True}])
    ended(page)
    assert script.interrupted == []


def test_copying_works_over_http_from_another_machine(page: Any, script: Script) -> None:
    """A browser gives a page no clipboard there; the old way still works."""
    page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    script.answer = ["```py\na = 1\n\nb = '<b>'\n```"]
    ask(page, "Go")
    ended(page)
    page.click(".code button")
    page.wait_for_selector("text=Copied")
    page.focus("#input")
    page.keyboard.press("Control+v")
    assert page.input_value("#input") == "a = 1\n\nb = '<b>'"


@pytest.mark.parametrize(
    ("text", "shown", "tags"),
    [
        (r"\*a\* and \_b\_ 2 \* 3", "*a* and _b_ 2 * 3", []),
        (r"*a\*b* **c\*\*d**", "a*b c**d", ["EM", "STRONG"]),
        (r"`\*a` \`b\`", r"\*a `b`", ["CODE"]),
        (r"\~~a~~ \# b", "~~a~~ # b", []),
        (r"a \\ \(x\) \[y\] \n", r"a \\ \(x\) \[y\] \n", []),
        ("<https://e.org/a_b_c?d=1>, <b>", "https://e.org/a_b_c?d=1, <b>", ["A"]),
        (r"[a](https://e.org/x\_y) https://e.org/\_z", r"a https://e.org/\_z", ["A", "A"]),
    ],
)
def test_marks_behind_a_backslash_are_letters(
    page: Any, text: str, shown: str, tags: list[str]
) -> None:
    drawn = """text => {
      const drawn = block(text), tags = [...drawn.querySelectorAll("*")].map(one => one.tagName);
      return [drawn.textContent, tags];
    }"""
    assert page.evaluate(drawn, text) == [shown, tags]
    assert page.evaluate("text => block(text).querySelector('a')?.href ?? ''", text) in (
        *("", "https://e.org/a_b_c?d=1", "https://e.org/x_y"),
    )


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("see https://e.org/Tide_(physics).", ["https://e.org/Tide_(physics)"]),
        ("(https://e.org/a), [https://e.org/b]", ["https://e.org/a", "https://e.org/b"]),
        ("https://e.org/a(b https://e.org/(c)d", ["https://e.org/a", "https://e.org/(c)d"]),
        ('[x](https://e.org/a_(b) "Its title") y', ["https://e.org/a_(b)"]),
        ("<https://e.org/a>", ["https://e.org/a"]),
    ],
)
def test_a_link_leads_to_the_whole_address(page: Any, text: str, addresses: list[str]) -> None:
    found = "text => [...block(text).querySelectorAll('a')].map(one => one.href)"
    assert page.evaluate(found, text) == addresses


def test_after_each_button_a_key_is_typed_into_the_message(page: Any, script: Script) -> None:
    """A button that is drawn anew loses the focus to the whole page."""
    ask(page, "One")
    ended(page)
    for press in ("text=Retry", "text=Edit", "#undo", "#fresh", "#undo"):
        page.focus(press)
        page.keyboard.press("Enter")
        page.wait_for_selector("#send:visible")
        assert page.evaluate("document.activeElement.id") == "input", press
