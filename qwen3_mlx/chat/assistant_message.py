"""Builds the assistant's message from the events of a turn."""

from __future__ import annotations

from typing import Any

from qwen3_mlx.events import Answer, Event, Thinking, ToolCall
from qwen3_mlx.text.messages import joined_text


class AssistantMessage:
    """Collects a turn's events; `commit` adds the message to `messages`, once.

    With `grows`, the events extend the last of `messages`.
    """

    def __init__(self, messages: list[dict[str, Any]], grows: bool = False) -> None:
        self.messages, self.grows = messages, grows
        self.texts = {"content": "", "reasoning_content": ""}
        self.calls: list[dict[str, Any]] = []
        self.committed = False

    def add(self, event: Event) -> None:
        """Append the event's text or tool call; other events are ignored."""
        match event:
            case Thinking(text):
                self.texts["reasoning_content"] += text
            case Answer(text):
                self.texts["content"] += text
            case ToolCall():
                self.calls.append(event.as_message())

    @property
    def has_content(self) -> bool:
        """Whether the turn has produced text or a tool call."""
        return bool(self.calls) or any(self.texts.values())

    def commit(self) -> None:
        """Append the message to the conversation, or extend its last message; only once."""
        if self.committed:
            return
        self.committed = True
        beginning = self.messages.pop() if self.grows else {"role": "assistant"}
        message = dict(beginning)
        message["content"] = joined_text(beginning.get("content")) + self.texts["content"]
        if thought := (beginning.get("reasoning_content") or "") + self.texts["reasoning_content"]:
            message["reasoning_content"] = thought
        if self.calls:
            message["tool_calls"] = self.calls
        self.messages.append(message)
