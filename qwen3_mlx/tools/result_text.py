"""Formats a tool's result for the model: shortened, and marked with the server's name."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from qwen3_mlx.tools.surrogates import whole_text
from qwen3_mlx.tools.tool import Result, Tool

RESULT_TOKENS = 8_192
"""The most tokens of one result that the model reads."""
CHARACTERS_A_TOKEN = 12
"""More characters per token than any text has on average: longer texts are cut before encoding."""

NOT_RUN = "Not run"
"""How the text begins that stands for the result of a call that did not run."""
DECLINED = f"{NOT_RUN}: the user said no"
"""The same of a call that the user declined."""
SAME_CALL = 3
"""A user turn ends when it has requested the same call this many times."""
WHY: dict[str, str] = {
    "interrupted": "the user ended the turn",
    "steps": "the turn has had all its steps",
    "repeated": f"the same call came {SAME_CALL} times",
    "length": "the turn ran out of room",
    "answered": "the turn is over",
}
"""Why a call did not run, by the ending of its turn."""
_FAILED = re.compile(r"(\(The user had it run with .*\.\)\n)?(\[.*\]\n)?Error(: |$)")


def tells_failure(text: str) -> bool:
    """Whether `text`, as a conversation keeps it, is the result of a call that failed.

    A conversation keeps nothing else of it. So a text that a tool itself begins with "Error: "
    counts as a failure too.
    """
    return _FAILED.match(text) is not None


def for_model(
    tool: Tool | None, result: Result, encode: Callable[[str], Sequence[int]], most: int
) -> str:
    """The text of `result`, its middle replaced by a note if it has more than `most` tokens.

    A server's result begins with the tool's full name, so that the model can tell it from the
    user's words; the name adds to the `most` tokens. U+FFFD stands for each lone surrogate.
    """
    text = shortened(whole_text(result.text), encode, most)
    if result.failed:
        text = f"Error: {text}" if text else "Error"
    return f"[{tool.full_name}]\n{text}" if tool is not None and tool.server else text


def shortened(text: str, encode: Callable[[str], Sequence[int]], most: int) -> str:
    """`text`, or its head and tail with a note between, in at most about `most` tokens."""
    size = most * CHARACTERS_A_TOKEN
    kept = len(text)
    if kept > size:
        kept = size
    while True:
        short = _cut(text, kept)
        tokens = len(encode(short))
        if tokens <= most or kept <= 16:
            return short
        kept = min(kept * 9 // 10, kept * most // tokens)


def _cut(text: str, kept: int) -> str:
    left_out = len(text) - kept
    if left_out <= 0:
        return text
    head = kept * 2 // 3
    tail = kept - head
    return f"{text[:head]}\n… {left_out:,} characters left out …\n{text[len(text) - tail :]}"
