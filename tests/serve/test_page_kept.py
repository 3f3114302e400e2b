"""Nothing that was said on the page is lost: by a reload, a slip, a server that goes, a file."""

from __future__ import annotations

from typing import Any

from tests.serve.page_stub import Script, ask, ended, needs_chromium, scripted, wait_for

pytestmark = needs_chromium
DROP = """([name, bytes]) => {
  const held = new DataTransfer();
  held.items.add(new File([new Uint8Array(bytes)], name));
  const drop = new DragEvent("drop", {dataTransfer: held, bubbles: true, cancelable: true});
  const over = new DragEvent("dragover", {dataTransfer: held, bubbles: true, cancelable: true});
  return [over, drop].map(event => input.dispatchEvent(event));
}"""


def slow(script: Script) -> None:
    script.answer, script.pause = ["word "] * 400, 0.05


def test_what_was_said_before_a_reload_stays_and_can_be_asked_again(
    page: Any, script: Script
) -> None:
    slow(script)
    ask(page, "Go")
    page.wait_for_selector("text=answering")
    page.fill("#input", "the next")
    page.reload()
    assert page.inner_text(".answer").startswith("word")
    assert page.locator(".error:visible").count() == 0
    assert page.locator("text=cut off: the page was left").is_visible()
    assert page.input_value("#input") == "the next"
    script.pause, script.answer = 0.0, ["Whole."]
    page.click("text=Retry")
    ended(page)
    assert page.inner_text(".answer") == "Whole." and page.locator("article").count() == 2


def test_a_question_that_had_no_answer_at_a_reload_can_be_asked_again(
    page: Any, script: Script
) -> None:
    script.gate.clear()
    ask(page, "Go")
    wait_for(lambda: len(script.asked) == 1)
    page.reload()
    assert page.locator("article").count() == 1
    script.gate.set()
    page.click("text=Retry")
    ended(page)
    assert page.inner_text(".answer") == "Hello."


def test_a_new_chat_an_edit_and_a_retry_can_be_taken_back(page: Any, script: Script) -> None:
    ask(page, "One")
    ended(page)
    assert not page.locator("#undo").is_visible()
    page.keyboard.press("Alt+n")
    page.reload()
    page.click("#undo")
    assert page.inner_text(".answer") == "Hello." and not page.locator("#undo").is_visible()
    page.fill("#input", "a draft")
    page.click("text=Edit")
    assert page.input_value("#input") == "One" and page.locator("article").count() == 0
    page.click("#undo")
    assert page.input_value("#input") == "a draft" and page.locator("article").count() == 2
    page.fill("#input", "")
    script.answer = ["Other."]
    page.click("text=Retry")
    page.wait_for_selector("text=Other.")
    ended(page)
    for answer in ("Hello.", "Other.", "Hello."):  # the two change places
        page.click("#undo")
        assert page.inner_text(".answer") == answer


def test_an_answer_that_is_thrown_away_half_said_comes_back(page: Any, script: Script) -> None:
    slow(script)
    ask(page, "Go")
    page.wait_for_selector("text=answering")
    page.click("#fresh")
    page.click("#undo")
    assert page.inner_text(".answer").startswith("word")
    assert page.locator("text=stopped").is_visible()


def test_an_answer_that_could_not_be_replaced_comes_back(page: Any, script: Script) -> None:
    ask(page, "One")
    ended(page)
    script.status = 400
    page.click("text=Retry")
    page.wait_for_selector(".error >> text=no room")
    assert page.inner_text(".answer") == "Hello." and page.input_value("#input") == ""
    script.status = 200
    page.click("text=Retry")
    ended(page)
    assert page.locator(".error:visible").count() == 0


def test_a_server_that_hangs_is_left_by_a_second_stop(page: Any, script: Script) -> None:
    slow(script)
    ask(page, "Go")
    page.wait_for_selector("text=answering")
    page.route("**/v1/interrupt", lambda _: None)  # never answered
    page.click("#stop")
    page.click("#stop")
    page.wait_for_selector(".tools >> text=stopped")
    assert page.locator("#send").is_visible()
    ask(page, "Go")
    page.wait_for_selector("text=answering")
    page.click("#stop")  # once is enough, in a while
    page.wait_for_selector("text=stopped >> nth=1", timeout=15_000)


def test_an_answer_goes_on_where_answer_now_reaches_nobody(page: Any, script: Script) -> None:
    script.thought, script.pause = ["step "] * 40, 0.05
    ask(page, "Think")
    page.wait_for_selector("text=/thinking ·/")
    page.route("**/v1/interrupt", lambda route: route.abort())
    page.click("#now")
    ended(page)
    assert page.inner_text(".answer") == "Hello." and page.locator(".error:visible").count() == 0


def test_a_name_that_is_not_known_yet_is_not_asked_for(browser: Any, script: Script) -> None:
    """A strict server refuses another name than its own, and a slow one tells it late."""
    page = browser.new_page()
    page.route("**/v1/models", lambda _: None)
    with scripted(script) as url:
        page.goto(url)
        ask(page, "Hi")
        ended(page)
    assert "model" not in script.asked[0]
    page.close()


def test_the_model_is_asked_for_again_where_an_answer_failed(page: Any, script: Script) -> None:
    names: list[str] = []
    page.on("request", lambda asked: names.append(asked.url.rsplit("/", 1)[1]))
    script.status = 404
    ask(page, "Hi")
    page.wait_for_selector(".error:visible")
    wait_for(lambda: "models" in names)


def test_a_file_that_is_dropped_becomes_text_and_the_page_stays(page: Any, script: Script) -> None:
    page.fill("#input", "Read")
    assert page.evaluate(DROP, ["a.py", list(b"x = '```'\n")]) == [False, False]
    wait_for(lambda: page.input_value("#input") == "Read\na.py:\n````\nx = '```'\n````\n")
    for name, data in (("a.png", b"\x89PNG\xff"), ("b.bin", b"a\0b")):
        page.evaluate(DROP, [name, list(data)])
        page.wait_for_selector(f"text={name} is no text, and this model reads nothing else.")
    page.evaluate(DROP, ["long.txt", list(b"a" * 1_000_001)])
    page.wait_for_selector("text=long.txt is longer than a megabyte.")
    assert "PNG" not in page.input_value("#input")


def test_numbers_that_are_none_are_said_and_nothing_is_sent(page: Any, script: Script) -> None:
    """The browser gives a number's field that it can't read out as an empty one."""
    for field, typed, right in (
        *(("longest", typed, "64") for typed in ("1e", "1.5", "0", "-3")),
        *(("temperature", typed, "0.55") for typed in ("-", "2.5", "-1")),
    ):
        page.click("#gear")
        page.focus(f"#{field}")
        page.keyboard.type(typed)
        page.click("#gear")
        ask(page, "Hi")
        page.wait_for_selector(f"#{field}-wrong:visible")
        assert page.evaluate("document.activeElement.id") == field and script.asked == []
        page.fill(f"#{field}", right)
        page.keyboard.press("Tab")
        assert not page.locator(f"#{field}-wrong").is_visible()
        page.fill(f"#{field}", "")
        page.click("#gear")
    page.keyboard.press("Tab")
    ask(page, "Hi")
    ended(page)
