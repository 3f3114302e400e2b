"""What a model repeats for ever is drawn in linear time: the page never freezes."""

from __future__ import annotations

from typing import Any

import pytest

from tests.serve.page_stub import needs_chromium

PARAGRAPHS = [
    *("**a** b ", "**a", "*a **b", "**a *b ", "***a", "`a` ", "`a ", "``a` ", "`", "[a](b) "),
    *("[a](http://b ", "[", "_a_ ", "_a ", "__a ", "~~a ~~ ", "~~a", "<", "&amp;", "*http://a"),
    *("http://", "**a_b*c`d~~", "f(*args, **kwargs) ", "**kwargs, ", "2**3 ", "*", "_", "(b)"),
]
LINES = [
    *("> ", ">", "* ", "- ", "1. ", "# ", "#", "> - ", "- [ ] ", "- > ", "|", "|-", "|a|b|\n"),
    *("|a|b|\n|-|-|\n", "|a|b|\n|-|-|\nx\n", "# a\n", "- a\n1. b\n", "- a\n", "> a\n", "```\n"),
    *("- ```\n", "~~~ ", "- **a** b\n", "a\n", "\n", "- a\n\n", "x\n- a\n1. b\n|c|\n|-|\n"),
]
ABSURD = [
    "# a" + " " * 9_000 + "b",
    "# a" + " #" * 9_000 + "b",
    "```" + " " * 19_000 + "`",
    "~" * 19_000 + "`",
    "|a|\n" + " " * 19_000 + "-x",
    "|a|\n-" + " " * 19_000 + "x",
    "- " + " " * 9_000 + "x\u2028y" + " " * 9_000,
    "```c\n" + "/*" * 9_000,
    "[x](http://a" + "(b)" * 6_000,
    "`[` [" + "a `[` " * 3_000,
    "http://a" + "." * 19_000,
    "http://a" + "(b)" * 6_000,
    "http://a" + "(" * 19_000,
    "http://a(b" * 1_900,
    "<http://a" * 2_000,
    '[x](http://a "' * 1_300,
    "a\\*" * 6_000,
    "\n".join("  " * (n % 400) + "- a" for n in range(1_200)),
    "**a** " * 50_000,
]
DRAW = """text => {
  const drawn = document.createElement("div"), began = performance.now();
  new Growing(drawn).show(text);
  return [performance.now() - began, drawn.textContent];
}"""


def drawn(page: Any, text: str) -> str:
    """What is shown of `text`; drawing it may take half a second, as ten times its work does.

    On a machine busy with other things the quickest of three counts.
    """
    found = list[float]()
    while not found or (min(found) >= 500 and len(found) < 3):
        took, shown = page.evaluate(DRAW, text)
        found.append(took)
    assert min(found) < 500, f"{min(found):.0f} ms"
    return str(shown)


@needs_chromium
class TestRepeats:
    @pytest.mark.parametrize("part", PARAGRAPHS)
    def test_a_paragraph_of_one_mark_is_drawn_in_no_time(self, drawing: Any, part: str) -> None:
        for times in (300, 12_000 // len(part)):
            shown = drawn(drawing, "x " + part * times)
            assert shown.count("a") <= part.count("a") * times

    @pytest.mark.parametrize("part", LINES)
    def test_lines_of_one_mark_are_drawn_in_no_time(self, drawing: Any, part: str) -> None:
        for times in (300, 12_000 // len(part)):
            assert drawn(drawing, part * times).count("a") == part.count("a") * times

    @pytest.mark.parametrize("text", ABSURD, ids=lambda text: repr(text[:12]))
    def test_a_text_that_no_one_writes_is_drawn_in_no_time(self, drawing: Any, text: str) -> None:
        assert drawn(drawing, text).count("a") == text.count("a")

    def test_what_is_nested_deeper_than_anyone_reads_is_shown_as_it_is(self, drawing: Any) -> None:
        for text in ("> " * 3_000 + "end", "- " * 3_000 + "end", "1. > " * 3_000 + "end"):
            assert drawn(drawing, text).endswith("end")
        drawing.evaluate("text => document.body.append(block(text))", "> " * 40 + "end")
        assert 10 < drawing.locator("blockquote").count() < 20

    def test_every_row_of_a_table_too_long_for_an_argument_list_is_drawn(
        self, drawing: Any
    ) -> None:
        rows = drawing.evaluate("""() => {
          const drawn = document.createElement("div");
          new Growing(drawn).show("|a|\\n|-|\\n" + "|b|\\n".repeat(150000));
          return drawn.querySelectorAll("td").length;
        }""")
        assert rows == 150_000
