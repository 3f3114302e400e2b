"""Requests of the shape that Claude Code sends: its second turn computes its new lines alone.

Recorded of version 2.1.197: 24 tools and 18,600 tokens, two blocks of a system prompt, a `system`
message among the messages, adaptive thinking, and lines that are others in every request.
"""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

from tests.clients.served import THOUGHT, Json, Served, call, results

TOOLS, MOST_COMPUTED = 24, 200
WORDS = re.findall(
    r"\w+",
    "the file path must be absolute and read before any edit so that a line which is not unique "
    "fails with an error and the command runs in the same shell until its timeout ends it",
)
LINES = "1\tdef add(a, b):\n2\t    return a - b"


def prose(draw: random.Random, words: int) -> str:
    return " ".join(draw.choices(WORDS, k=words)).capitalize() + "."


def tool(draw: random.Random, number: int) -> Json:
    """One of the tools: a long description, and a schema with descriptions of its own."""
    properties = {
        name: {"type": "string", "description": prose(draw, 30)}
        for name in ("file_path", "old_string", "new_string", "description")
    }
    schema = {"type": "object", "properties": properties, "required": ["file_path"]}
    name = ("Read", "Edit")[number] if number < 2 else f"Tool{number}"
    return {"name": name, "description": prose(draw, 480), "input_schema": schema}


class Claude:
    """A session: what stays in its requests, and what doesn't."""

    def __init__(self) -> None:
        draw = random.Random(5)
        self.tools = [tool(draw, number) for number in range(TOOLS)]
        self.rules = prose(draw, 1_800)
        self.changing = random.Random()
        self.talk: list[Json] = [
            {"role": "user", "content": [text("<system-reminder>None.</system-reminder>"),
                                         text("Correct the sum in sums.py.")]},
            {"role": "system", "content": "The working folder is /home/me/sums."},
        ]  # fmt: skip

    def request(self) -> Json:
        billing = f"x-anthropic-billing-header: cc_version=2.1.197; cch={self._digits():05};"
        left = f"<total_tokens>{self._digits()} tokens left</total_tokens>"
        cached = {"cache_control": {"type": "ephemeral"}}
        return {
            "model": "claude-sonnet-4-5",
            "system": [text(billing), text(f"{self.rules}\n{left}") | cached],
            "tools": self.tools,
            "messages": self.talk,
            "thinking": {"type": "adaptive"},
            "output_config": {"effort": "high"},
            "context_management": {"edits": []},
            "metadata": {"user_id": f"user_{self._digits()}"},
            "max_tokens": 32_000,
        }

    def _digits(self) -> int:
        return self.changing.randrange(10**5)

    def hear(self, answer: Json) -> str:
        """Take an answer as the client keeps it, thought and call; its text."""
        self.talk.append({"role": "assistant", "content": answer["content"]})
        used = [block["id"] for block in answer["content"] if block["type"] == "tool_use"]
        found = [
            {"type": "tool_result", "tool_use_id": id, "content": [text(LINES)]} for id in used
        ]
        if found:
            self.talk.append({"role": "user", "content": found})
        return "".join(block.get("text", "") for block in answer["content"])


def text(said: str) -> Json:
    return {"type": "text", "text": said}


def works(prompt: str) -> str:
    """Read, edit, and say so; a title where no tool is offered."""
    if "<tools>" not in prompt:
        return "Correct a sum"
    file = {"file_path": "/home/me/sums/sums.py"}
    calls = (call("Read", **file), call("Edit", **file, old_string="-", new_string="+"))
    done = len(results(prompt))
    return THOUGHT + (calls[done] if done < len(calls) else "Corrected.")


def test_later_turns_compute_their_new_lines_alone(
    served: Served, real_tokens: Path | None
) -> None:
    most = MOST_COMPUTED if real_tokens else 3 * MOST_COMPUTED  # of the demo's shorter tokens
    served.say(works)
    claude, path = Claude(), "/v1/messages?beta=true"
    title: dict[str, Any] = {
        "model": "claude-haiku-4-5",
        "max_tokens": 512,
        "messages": [{"role": "user", "content": "Write a title: correct the sum."}],
    }
    computed, said = list[int](), ""
    for turn in range(4):
        said = claude.hear(served.server.ok(path, claude.request()))
        computed.append(served.turns[-1].computed)
        if turn == 0:
            assert 17_000 < served.turns[-1].prompt < 20_000 or not real_tokens
        served.server.ok(path, title)  # with another prompt, between the turns
        if turn == 2:
            assert said == "Corrected."
            claude.talk.append({"role": "user", "content": "Thank you."})
    assert computed[0] > 15_000 and max(computed[1:]) < most, computed
