"""Finds tool calls in an answer that begin with <function=f>, without a <tool_call>."""

from __future__ import annotations

from collections.abc import Callable

from qwen3_mlx.text.coder_call import FUNCTION

_OPENER = "<function"
_LONGEST_NAME = 200


class BareCalls:
    """Finds the opening tag of a function on offer, also across token borders.

    A tag in backticks, in quotes or in a code block is text.
    """

    def __init__(self, on_offer: Callable[[str], bool]) -> None:
        self._on_offer = on_offer
        self._held = ""
        self._before = ""
        self._fences = 0

    def push(self, text: str) -> tuple[str, str]:
        """Append `text`; returns text outside calls, and the beginning of a call (or "")."""
        if not self._held and "<" not in text:
            self._passed(text)
            return text, ""
        text, self._held = self._held + text, ""
        start = text.find("<")
        while start >= 0:
            if (found := FUNCTION.match(text, start)) and self._on_offer(found[1].strip()):
                if not self._is_quoted(text[:start]):
                    self._passed(text[:start])
                    return text[:start], text[start:]
            elif self._may_begin(text[start:]):
                self._held, text = text[start:], text[:start]
                break
            start = text.find("<", start + 1)
        self._passed(text)
        return text, ""

    def flush(self) -> str:
        """End the text; returns the text held back."""
        held, self._held = self._held, ""
        self._passed(held)
        return held

    def _may_begin(self, text: str) -> bool:
        if len(text) <= len(_OPENER):
            return _OPENER.startswith(text)
        unfinished = not any(character in text[1:] for character in "<>\n")
        return text.startswith(_OPENER) and unfinished and len(text) < _LONGEST_NAME

    def _is_quoted(self, text: str) -> bool:
        before = self._before + text
        in_fence = (self._fences + before.count("```")) % 2 == 1
        return in_fence or before.endswith(("`", '"', "'"))

    def _passed(self, text: str) -> None:
        """Count the code fences in text passed on; keeps its last two characters for next time."""
        if not text:
            return
        text = self._before + text
        self._fences += text.count("```")
        last = text[-2:]
        self._before = "" if text.endswith("```") else last
