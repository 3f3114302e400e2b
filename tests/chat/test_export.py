"""A conversation as one document, to the letter."""

from __future__ import annotations

from pathlib import Path

from qwen3_mlx.chat.export import as_json, as_markdown
from qwen3_mlx.chat.journal import SavedChat

CHAT = SavedChat(
    Path("2026-01-02-abc.jsonl"),
    "demo",
    {"seed": 1},
    [
        {"role": "user", "content": "Zwölf?"},
        {
            "role": "assistant",
            "reasoning_content": "Hm.",
            "content": "",
            "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "12"}]},
    ],
)


def test_json() -> None:
    assert as_json(CHAT) == (
        '{\n "format": "qwen3-mlx session",\n "version": 1,\n "model": "demo",\n "options": {\n'
        '  "seed": 1\n },\n "messages": [\n  {\n   "role": "user",\n   "content": "Zwölf?"\n  },\n'
        '  {\n   "role": "assistant",\n   "reasoning_content": "Hm.",\n   "content": "",\n'
        '   "tool_calls": [\n    {\n     "id": "1",\n     "function": {\n      "name": "f",\n'
        '      "arguments": "{}"\n     }\n    }\n   ]\n  },\n  {\n   "role": "tool",\n'
        '   "tool_call_id": "1",\n   "content": [\n    {\n     "type": "text",\n'
        '     "text": "12"\n    }\n   ]\n  }\n ]\n}\n'
    )


def test_markdown() -> None:
    assert as_markdown(CHAT) == (
        "# Zwölf?\n\ndemo, 2026-01-02-abc\n\n## User\n\nZwölf?\n\n## Assistant\n\n"
        "<details><summary>Thinking</summary>\n\nHm.\n\n</details>\n\n"
        '```json\n{"id": "1", "function": {"name": "f", "arguments": "{}"}}\n```\n\n'
        "## Tool: 1\n\n12\n"
    )
