"""Encodes markers that appear in the texts of users and tools as letters, not as tokens.

The template is rendered with a placeholder word for each such marker. After the template's own
markers have become ids, the placeholders are replaced by the original spellings.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

from qwen3_mlx.text.tokenizer import Tokenizer

_TOOL_RESULT = re.compile(r"(<tool_response>)(.*)(</tool_response>)", re.DOTALL)


class LiteralText:
    """Placeholders for the markers spelled in one conversation.

    In user and tool messages all markers are replaced; in system messages, tools and the
    assistant's text only tokens flagged special, because a system message may explain how
    ``<tool_call>`` is used, and an assistant's text may contain its thinking.
    """

    def __init__(self, tokenizer: Tokenizer, messages: list[dict[str, Any]], tools: Any) -> None:
        """Copy `messages` and `tools` with placeholders in place of spelled markers."""
        self._tokenizer = tokenizer
        self._spellings: list[str] = []
        whole = json.dumps([messages, tools]).encode()
        # No text contains its own digest. JSON and templates don't change letters and digits.
        self._word = f"marker{hashlib.sha256(whole).hexdigest()[:16]}"
        self.messages = [self._message(message) for message in messages]
        self.tools = self._deep(tools, self._hide_control)

    @property
    def anything(self) -> bool:
        """Whether any text contains a marker that was replaced."""
        return bool(self._spellings)

    def encode(self, prompt: str) -> list[int]:
        """The ids of the rendered `prompt`; replaced markers are encoded as letters."""
        ids: list[int] = []
        for index, piece in enumerate(self._tokenizer.split_markers(prompt)):
            if index % 2:
                ids.append(self._tokenizer.token_id(piece))
            else:
                ids += self._tokenizer.encode_letters(self._put_back(piece))
        return ids

    def _message(self, message: dict[str, Any]) -> dict[str, Any]:
        from_outside = message["role"] in ("user", "tool")
        hide = self._hide_all if from_outside else self._hide_control
        hidden: dict[str, Any] = self._deep({**message, "role": ""}, hide)
        result = _TOOL_RESULT.fullmatch(message["content"])
        if message["role"] == "user" and result:  # a tool result written by hand
            hidden["content"] = result[1] + self._hide_all(result[2]) + result[3]
        return {**hidden, "role": message["role"]}

    def _deep(self, value: Any, hide: Callable[[str], str]) -> Any:
        if isinstance(value, str):
            return hide(value)
        if isinstance(value, list):
            return [self._deep(item, hide) for item in value]
        if isinstance(value, dict):
            return {hide(key): self._deep(item, hide) for key, item in value.items()}
        return value

    def _hide_all(self, text: str) -> str:
        return self._tokenizer.all_markers.sub(self._hide, text)

    def _hide_control(self, text: str) -> str:
        return self._tokenizer.control_markers.sub(self._hide, text)

    def _hide(self, found: re.Match[str]) -> str:
        if found[0] not in self._spellings:
            self._spellings.append(found[0])
        return f"{self._word}n{self._spellings.index(found[0])}e"

    def _put_back(self, text: str) -> str:
        return re.sub(f"{self._word}n(\\d+)e", lambda found: self._spellings[int(found[1])], text)
