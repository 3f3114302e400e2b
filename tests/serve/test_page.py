"""The chat page in headless Chromium, against a scripted server."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest

from qwen3_mlx.serve.web_page import PAGE
from tests.serve.page_stub import Script, ask, ended, needs_chromium, scripted, wait_for


def test_the_page_names_no_other_host() -> None:
    text = PAGE.read_text("utf-8")
    assert not re.findall(
        r"""(?:src|href|action)=["']?(?!data:)[a-z]+:|url\(|@import|import\(""", text
    )


@needs_chromium
class TestTurn:
    def test_an_answer_streams_and_is_kept_over_a_reload(self, page: Any, script: Script) -> None:
        script.answer = ["**Hel", "lo** <b>", "you</b>"]
        ask(page, "Hi <i>there</i>")
        ended(page)
        assert page.inner_text("article.user .text") == "Hi <i>there</i>"
        assert page.inner_html(".answer p") == "<strong>Hello</strong> &lt;b&gt;you&lt;/b&gt;"
        page.reload()
        assert page.inner_text(".answer") == "Hello <b>you</b>"
        ask(page, "And?")
        wait_for(lambda: len(script.asked) == 2)
        assert [one["content"] for one in script.asked[1]["messages"]] == [
            *("Hi <i>there</i>", "**Hello** <b>you</b>", "And?"),
        ]

    def test_a_thought_is_folded_has_a_live_gauge_and_is_cut_by_a_key(
        self, page: Any, script: Script
    ) -> None:
        script.thought, script.pause = ["step "] * 400, 0.05
        page.click("#gear")
        page.fill("#budget", "512")
        ask(page, "Think")
        page.wait_for_selector("text=/thinking · [2-9]\\/512 tokens/")
        assert page.locator("details.thought progress").get_attribute("max") == "512"
        assert not page.locator("details.thought .text").is_visible()
        page.click("details.thought summary")
        assert page.locator("details.thought .text").is_visible()
        page.keyboard.press("Escape")
        ended(page)
        assert script.interrupted == ["answer"] and script.asked[0]["thinking_budget"] == 512
        assert "✂ cut by you" in page.inner_text("details.thought summary")
        assert page.inner_text(".answer") == "Hello."

    def test_answer_now_and_stop_are_buttons_too(self, page: Any, script: Script) -> None:
        script.thought, script.pause = ["step "] * 400, 0.05
        script.answer = ["word "] * 400
        ask(page, "Think")
        page.click("#now")
        page.wait_for_selector("text=answering")
        assert not page.locator("#now").is_visible()
        page.click("#stop")
        ended(page)
        assert script.interrupted == ["answer", "stop"]
        assert page.inner_text(".answer").startswith("word") and "stopped" in page.inner_text(
            "#chat"
        )
        assert page.locator("#send").is_visible()

    def test_escape_stops_an_answer_which_is_not_said_to_be_the_limit_s(
        self, page: Any, script: Script
    ) -> None:
        script.answer, script.pause, script.reason = ["word "] * 400, 0.05, "length"
        ask(page, "Go")
        page.wait_for_selector("text=answering")
        page.keyboard.press("Escape")
        ended(page)
        note = page.inner_text(".tools >> nth=1")
        assert script.interrupted == ["stop"] and "stopped" in note and "limit" not in note
        script.pause, script.answer = 0.0, ["Cut"]
        ask(page, "And?")
        page.wait_for_selector("text=ended by the limit")

    def test_a_new_chat_begins_at_once_and_stops_the_answer(
        self, page: Any, script: Script
    ) -> None:
        script.answer, script.pause = ["word "] * 400, 0.05
        ask(page, "Go")
        page.wait_for_selector("text=answering")
        page.click("#fresh")
        assert page.locator("article").count() == 0 and page.locator("#send").is_visible()
        wait_for(lambda: script.gone == 1)
        script.pause, script.answer = 0.0, ["Anew."]
        ask(page, "Else")
        ended(page)
        assert page.locator("article").count() == 2 and page.inner_text(".answer") == "Anew."
        assert [one["content"] for one in script.asked[1]["messages"]] == ["Else"]

    def test_what_the_settings_say_is_asked(self, page: Any, script: Script) -> None:
        page.click("#gear")
        page.select_option("#think", "off")
        page.fill("#budget", "64")
        page.fill("#longest", "128")
        page.fill("#temperature", "0.5")
        page.fill("#system", "Be brief.")
        ask(page, "Hi")
        ended(page)
        asked = script.asked[0]
        assert asked["enable_thinking"] is False and "thinking_budget" not in asked
        assert (asked["max_tokens"], asked["temperature"]) == (128, 0.5)
        assert asked["messages"][0] == {"role": "system", "content": "Be brief."}
        page.reload()
        assert page.input_value("#system") == "Be brief."

    def test_an_example_is_asked(self, page: Any, script: Script) -> None:
        page.click("text=17 × 23")
        ended(page)
        assert script.asked[0]["messages"][0]["content"] == "What is 17 × 23?"
        assert not page.locator("#empty").is_visible()

    def test_reading_a_long_prompt_shows_how_far_it_is(self, page: Any, script: Script) -> None:
        script.progress, script.pause = (": 512/2048",), 0.5
        ask(page, "Hi")
        page.wait_for_selector("text=reading 512 of 2048 tokens")
        ended(page)

    def test_retry_and_edit(self, page: Any, script: Script) -> None:
        ask(page, "One")
        ended(page)
        script.answer = ["Another."]
        page.click("text=Retry")
        page.wait_for_selector("text=Another.")
        ended(page)
        assert len(script.asked[1]["messages"]) == 1 and page.locator("article").count() == 2
        page.click("text=Edit")
        assert page.input_value("#input") == "One" and page.locator("article").count() == 0

    def test_keys(self, page: Any, script: Script) -> None:
        page.keyboard.type("one")
        page.keyboard.press("Shift+Enter")
        page.keyboard.type("two")
        page.keyboard.press("Enter")
        ended(page)
        assert script.asked[0]["messages"][0]["content"] == "one\ntwo"
        page.keyboard.press("Alt+n")
        assert page.locator("article").count() == 0 and page.locator("#empty").is_visible()
        page.keyboard.press("Enter")
        assert len(script.asked) == 1


@needs_chromium
class TestFaults:
    def test_a_refused_message_comes_back(self, page: Any, script: Script) -> None:
        script.status = 400
        ask(page, "Too long")
        page.wait_for_selector(".error >> text=no room for <b>this</b> prompt")
        assert page.input_value("#input") == "Too long"
        script.status = 200
        page.keyboard.press("Enter")
        ended(page)
        assert page.locator(".error:visible").count() == 0

    def test_what_was_said_is_kept_when_the_stream_breaks_off(
        self, page: Any, script: Script
    ) -> None:
        script.breaks_off, script.answer = True, ["Half an "]
        ask(page, "Go")
        page.wait_for_selector("text=The connection ended before the answer did.")
        assert page.inner_text(".answer") == "Half an "
        script.breaks_off = False
        page.click("text=Retry")
        ended(page)

    def test_a_server_that_is_gone(self, browser: Any, script: Script) -> None:
        page = browser.new_page()
        with scripted(script) as url:
            page.goto(url)
            wait_for(lambda: page.evaluate("document.title === 'scripted'"))
        ask(page, "Hi")
        page.wait_for_selector("text=The server can't be reached.")
        assert page.input_value("#input") == "Hi"
        page.close()

    def test_a_key_is_asked_for_and_used(self, page: Any, script: Script) -> None:
        script.key = "s3cret"
        page.reload()
        page.wait_for_selector("#key:visible")
        page.fill("#key", "s3cret")
        page.keyboard.press("Enter")
        wait_for(lambda: page.evaluate("document.title === 'scripted'"))
        ask(page, "Hi")
        ended(page)

    def test_nothing_that_a_model_says_runs(self, page: Any, script: Script) -> None:
        script.answer = [
            "<img src=x onerror=alert(1)><script>alert(1)</script>",
            " ![p](https://example.org/p.png) ",
            "[x](javascript:alert(1)) [y](data:text/html,x) [z](https://example.org/)",
        ]
        page.on("dialog", lambda dialog: pytest.fail(dialog.message))
        ask(page, "Attack")
        ended(page)
        assert page.locator(".answer :is(img, script, iframe)").count() == 0
        links = page.locator(".answer a").evaluate_all("all => all.map(a => a.href)")
        assert set(links) <= {"https://example.org/", "https://example.org/p.png"}


WORDS = [
    *("a", "b1", "*", "**", "_", "__", "`", "``", "\n", "\n\n", "- ", "1. ", "> ", "# ", "| ", "|"),
    *(
        "~~",
        "<br>",
        "<b>",
        "&amp;",
        "\\(",
        "$",
        "\\",
        "[",
        "](",
        ")",
        "!",
        "```\n",
        "```py\n",
        "  ",
    ),
    *(
        "|--|--|\n",
        "x|y\n",
        "é",
        "日本",
        "🙂",
        "  - ",
        "\t",
        "---\n",
        "http://e.org/q",
        "[ ] ",
        ":",
    ),
]
LETTERS = """text => [...text].filter(
  c => /[\\p{L}\\p{S}\\p{N}]/u.test(c) && !"`|~+<>".includes(c)).join("")"""


@needs_chromium
class TestMarkdown:
    def test_every_letter_is_shown_in_order(self, drawing: Any) -> None:
        """But for marks, ordinals (the browser draws them) and <br> in a cell, a line break."""
        chance = random.Random(7)
        words = [word for word in WORDS if word != "]("]  # a link hides its address
        texts = ["".join(chance.choices(words, k=chance.randint(1, 40))) for _ in range(2_000)]
        missing = drawing.evaluate(
            """texts => texts.filter(text => {
              const letters = LETTERS;
              const drawn = document.createElement("div"), bare = text.replace(/<br>/g, "");
              new Growing(drawn).show(bare);
              for (const head of drawn.querySelectorAll(".code > div")) {
                head.querySelector("button").remove();
                if (head.textContent === "code") head.remove();
              }
              const squash = t => letters(t).replace(/1/g, "");
              return squash(drawn.textContent) !== squash(bare);
            })""".replace("LETTERS", f"({LETTERS})"),
            texts,
        )
        assert missing == []

    def test_a_text_in_pieces_is_drawn_as_the_whole_is(self, drawing: Any) -> None:
        chance = random.Random(8)
        texts = ["".join(chance.choices(WORDS, k=60)) for _ in range(100)]
        different = drawing.evaluate(
            """texts => texts.filter(text => {
              const [whole, grown] = [document.createElement("div"), document.createElement("div")];
              new Growing(whole).show(text);
              const growing = new Growing(grown);
              for (let n = 1; n <= text.length; n += 1 + n % 3) growing.show(text.slice(0, n));
              growing.show(text);
              return whole.innerHTML !== grown.innerHTML;
            })""",
            texts,
        )
        assert different == []

    @pytest.mark.parametrize(
        ("text", "html"),
        [
            (
                "a *b* **c** `d` ~~e~~",
                "<p>a <em>b</em> <strong>c</strong> <code>d</code> <s>e</s></p>",
            ),
            ("snake_case_name 2 * 3 * 4", "<p>snake_case_name 2 * 3 * 4</p>"),
            ("## Head ##", "<h2>Head</h2>"),
            ("- a\n  - b\n- c", "<ul><li>a<div><ul><li>b</li></ul></div></li><li>c</li></ul>"),
            ("3. a\n4. b", '<ol start="3"><li>a</li><li>b</li></ol>'),
            ("> a\n> b", "<blockquote><p>a\nb</p></blockquote>"),
            ("line\nnext", "<p>line\nnext</p>"),
            ("---", "<hr>"),
            (r"\(x\) \[y\] $z$ \\", r"<p>\(x\) \[y\] $z$ \\</p>"),
            ("# C# and F#", "<h1>C# and F#</h1>"),
            ("*a **b* c** *d*", "<p>*a <strong>b* c</strong> <em>d</em></p>"),
            (
                "***a*** **b *c* d**",
                "<p><strong><em>a</em></strong> <strong>b <em>c</em> d</strong></p>",
            ),
            ("``a`b`` ```c``", "<p><code>a`b</code> `<code>c</code></p>"),
            ("__a _b_ c__ d_e_", "<p><strong>a <em>b</em> c</strong> d_e_</p>"),
            ("x\n- a\n1. b", '<div><p>x</p><ul><li>a</li></ul><ol start="1"><li>b</li></ol></div>'),
        ],
    )
    def test_marks(self, drawing: Any, text: str, html: str) -> None:
        drawn = drawing.evaluate("text => block(text).outerHTML", text)
        plain = re.sub(r' class="[^"]*"', "", drawn)
        assert plain.replace("<div><ul>", "<ul>").replace("</ul></div>", "</ul>") == html.replace(
            "<div><ul>", "<ul>"
        ).replace("</ul></div>", "</ul>")

    def test_cells(self, page: Any) -> None:
        text = "| a | b |\n|:--|--:|\n| x<br>y | `p\\|q` |"
        page.evaluate("text => document.body.append(block(text))", text)
        assert page.locator("td").all_inner_texts() == ["x\ny", "p|q"]
        assert page.locator("td").nth(1).evaluate("e => e.style.textAlign") == "right"

    def test_a_long_answer_is_drawn_within_a_frame_a_piece(self, page: Any) -> None:
        """The median of the pieces at the end of 200,000 characters, in milliseconds."""
        took = page.evaluate(
            """() => {
              const drawn = document.createElement("div"), growing = new Growing(drawn), took = [];
              const part = "Some words with `code` and **more** of them.\\n\\n";
              let text = part.repeat(4400);
              growing.show(text);
              for (let n = 0; n < 30; n++) {
                text += "more "; const began = performance.now();
                growing.show(text); took.push(performance.now() - began);
              }
              return took.sort((a, b) => a - b)[15];
            }"""
        )
        assert took < 50


@needs_chromium
class TestLooks:
    @pytest.mark.parametrize("width", [320, 390, 1200])
    def test_no_width_scrolls_sideways(self, page: Any, script: Script, width: int) -> None:
        script.answer = [
            "word" * 200,
            "\n\n```\n" + "x" * 500 + "\n```\n\n",
            "| a | b |\n|--|--|\n" + "| c " * 2,
        ]
        page.set_viewport_size({"width": width, "height": 700})
        ask(page, "y" * 300)
        ended(page)
        page.click("#gear")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.evaluate("main.scrollWidth <= main.clientWidth")
        for id in ("send", "gear", "fresh"):
            box = page.locator(f"#{id}").bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= width

    def test_dark_and_light(self, page: Any) -> None:
        ground = "getComputedStyle(document.body).backgroundColor"
        page.emulate_media(color_scheme="light")
        light = page.evaluate(ground)
        page.emulate_media(color_scheme="dark")
        assert page.evaluate(ground) != light
        page.click("#theme")
        assert page.evaluate(ground) == light
        page.reload()
        assert page.evaluate(ground) == light

    def test_the_first_pixels_upwards_are_enough(self, page: Any, script: Script) -> None:
        """A smooth scroll begins with few: going on behind the answer would end it there."""
        script.answer, script.pause = ["line\n\n"] * 200, 0.02
        ask(page, "Go")
        wait_for(lambda: page.evaluate("main.scrollHeight > main.clientHeight + 300"))
        page.evaluate("main.scrollBy(0, -10)")
        page.wait_for_timeout(300)
        behind = "main.scrollHeight - main.scrollTop - main.clientHeight"
        wait_for(lambda: page.evaluate(f"{behind} > 100"))
        page.evaluate("main.scrollTop = main.scrollHeight - main.clientHeight - 20")
        page.wait_for_timeout(300)
        assert page.evaluate(f"{behind} < 2"), "who goes down to the end follows again"
        ended(page)

    def test_a_reader_who_scrolled_up_is_left_alone(self, page: Any, script: Script) -> None:
        script.answer, script.pause = ["line\n\n"] * 100, 0.02
        ask(page, "Go")
        wait_for(lambda: page.evaluate("main.scrollHeight > main.clientHeight + 300"))
        page.mouse.move(400, 300)
        page.mouse.wheel(0, -2000)
        wait_for(lambda: page.evaluate("main.scrollTop === 0"))
        page.wait_for_timeout(300)
        assert page.evaluate("main.scrollTop") == 0
        ended(page)
