"""What the assistant says in a turn, as the message that the conversation keeps."""

from __future__ import annotations

from typing import Any

from qwen3_mlx.events import Answer, Event, Thinking, ToolCall
from qwen3_mlx.text.messages import joined_text


class AssistantMessage:
    """Collects a turn's events; `keep` adds them to `messages`, once.

    With `grows`, the last message there is the beginning, and grows in place.
    """

    def __init__(self, messages: list[dict[str, Any]], grows: bool = False) -> None:
        self.messages, self.grows = messages, grows
        self.texts = {"content": "", "reasoning_content": ""}
        self.calls: list[dict[str, Any]] = []
        self.kept = False

    def take(self, event: Event) -> None:
        """Take note of a piece of the turn."""
        match event:
            case Thinking(text):
                self.texts["reasoning_content"] += text
            case Answer(text):
                self.texts["content"] += text
            case ToolCall():
                self.calls.append(event.as_message())

    @property
    def anything(self) -> bool:
        """Whether anything was said."""
        return bool(self.calls) or any(self.texts.values())

    def keep(self) -> None:
        """Add what was said to the conversation."""
        if self.kept:
            return
        self.kept = True
        begun = self.messages.pop() if self.grows else {"role": "assistant"}
        message = dict(begun)
        message["content"] = joined_text(begun.get("content")) + self.texts["content"]
        if thought := (begun.get("reasoning_content") or "") + self.texts["reasoning_content"]:
            message["reasoning_content"] = thought
        if self.calls:
            message["tool_calls"] = self.calls
        self.messages.append(message)
