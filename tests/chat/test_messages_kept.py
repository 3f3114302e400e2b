"""The assistant's message of a turn, and messages and options in JSON's types."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from qwen3_mlx.chat.assistant_message import AssistantMessage
from qwen3_mlx.chat.export import as_markdown
from qwen3_mlx.chat.journal import SavedChat
from qwen3_mlx.chat.plain import are_messages, are_options, as_plain, explicit
from qwen3_mlx.errors import SessionError
from qwen3_mlx.events import Answer, Event, Thinking, ToolCall
from qwen3_mlx.options import GenerationOptions

CALL = ToolCall("f", {"x": 1})


def committed(*events: Event, before: list[Any] | None = None, grows: bool = False) -> list[Any]:
    messages: list[dict[str, Any]] = before or []
    message = AssistantMessage(messages, grows)
    for event in events:
        message.add(event)
    message.commit()
    message.commit()
    return messages


def test_a_turn_s_events_make_one_message() -> None:
    said = committed(Thinking("hm"), Thinking(" so"), Answer("4"), Answer("2"))
    assert said == [{"role": "assistant", "content": "42", "reasoning_content": "hm so"}]
    assert committed(Answer("42")) == [{"role": "assistant", "content": "42"}]
    [called] = committed(CALL)
    assert called["content"] == "" and called["tool_calls"] == [CALL.as_message()]
    assert "reasoning_content" not in called


def test_a_message_that_is_continued_grows() -> None:
    user = {"role": "user", "content": "?"}
    begun = {"role": "assistant", "content": "4", "reasoning_content": "hm", "name": "q"}
    grown = committed(Thinking(" so"), Answer("2"), before=[user, begun], grows=True)
    assert grown == [user, begun | {"content": "42", "reasoning_content": "hm so"}]
    assert begun["content"] == "4", "whoever gave it keeps theirs"
    grown = committed(Answer("2"), before=[{"role": "assistant", "content": None}], grows=True)
    assert grown == [{"role": "assistant", "content": "2"}]


@pytest.mark.parametrize(
    ("events", "has"), [([], False), ([Thinking("x")], True), ([Answer("x")], True), ([CALL], True)]
)
def test_a_turn_has_content_once_it_says_or_calls_something(events: list[Event], has: bool) -> None:
    message = AssistantMessage([])
    for event in events:
        message.add(event)
    assert message.has_content == has


@pytest.mark.parametrize(
    ("value", "are"),
    [
        ([], True),
        (
            [{"role": "user"}, {"role": "x", "tool_calls": None}, {"role": "", "tool_calls": []}],
            True,
        ),
        ({"role": "user"}, False),
        (None, False),
        (["user"], False),
        ([{"content": "x"}], False),
        ([{"role": 1}], False),
        ([{"role": "user"}, {"role": "user", "tool_calls": {}}], False),
    ],
    ids=str,
)
def test_messages_are_dicts_with_a_role(value: Any, are: bool) -> None:
    assert are_messages(value) is are


def test_options_are_known_by_their_names() -> None:
    assert are_options({}) and are_options({"seed": 1, "max_tokens": None})
    assert not are_options({"seed": 1, "sead": 1}) and not are_options([]) and not are_options(None)


def test_only_options_that_are_set_are_kept() -> None:
    always = explicit(GenerationOptions())
    assert set(always) == {"special_tokens_in_text", "stop_in", "stop_text"}
    budget = {"floor": 3, "first": True}
    given = GenerationOptions(seed=0, thinking=False, thinking_budget=budget)
    assert explicit(given) == always | {"seed": 0, "thinking": False, "thinking_budget": budget}
    assert explicit(GenerationOptions(thinking_budget=9)) == always | {"thinking_budget": 9}


def test_messages_become_json_s_types_or_are_refused() -> None:
    given = [MappingProxyType({"role": "user", "content": ("a", CALL)})]
    kept = as_plain(given)
    assert kept == [{"role": "user", "content": ["a", {"name": "f", "arguments": {"x": 1}}]}]
    with pytest.raises(SessionError, match="object, which JSON has no form for"):
        as_plain([{"role": "user", "content": object()}])


@pytest.mark.parametrize(("said", "heading"), [("é", "# é"), ("", "# 2026-a")])
def test_a_document_s_heading_is_its_title_or_its_name(said: str, heading: str) -> None:
    calls = [{"function": {"name": "f"}}, None]
    messages = [
        {"role": "user", "content": said, "name": "Ann", "tool_call_id": ""},
        {"role": "assistant", "content": None, "thinking": "hm", "tool_calls": calls},
        {"role": "tool", "content": [{"type": "text", "text": "5"}, {"x": "ü"}]},
    ]
    chat = SavedChat(Path("2026-a.jsonl"), "demo", {}, messages)
    assert as_markdown(chat) == "\n\n".join(
        [
            heading,
            "demo, 2026-a",
            "## User: Ann",
            *([said] if said else []),
            "## Assistant",
            "<details><summary>Thinking</summary>\n\nhm\n\n</details>",
            '```json\n{"function": {"name": "f"}}\n```',
            "## Tool",
            "5",
            '```json\n{"x": "ü"}\n```\n',
        ]
    )
