"""What a tool's card says became of its call, while the turn runs and when it is loaded again."""

from __future__ import annotations

import pytest

from qwen3_mlx.cli.tools.shown import result_lines
from qwen3_mlx.cli.tui.tool_card import ToolCard
from qwen3_mlx.events import ToolCall
from qwen3_mlx.tools.events import ToolResult
from qwen3_mlx.tools.result_text import for_model
from qwen3_mlx.tools.tool import Result, Tool

TOOL = Tool("read", "", {}, lambda _a, _c: Result(""), server="files", called="read")
HAD = '(The user had it run with {"path": "b"}.)\n'


def told(text: str, *, failed: bool = False) -> str:
    return for_model(TOOL, Result(text, failed), list, 1_000)


@pytest.mark.parametrize(
    ("text", "failed", "outcome"),
    [
        (told("a line"), False, "✓ done"),
        (told("Errors: 0"), False, "✓ done"),
        (told("[x]\nError: quoted"), False, "✓ done"),
        (told("Not run: it says"), False, "✓ done"),
        (told("no such file", failed=True), True, "✗ failed"),
        (told("", failed=True), True, "✗ failed"),
        (HAD + told("no such file", failed=True), True, "✗ failed"),
        (HAD + told("fine"), False, "✓ done"),
        ("Error: no tool 'gone'. There are: read.", True, "✗ failed"),
        ("Not run: the user said no.", True, "✗ declined"),
        ("Not run: the user said no: not now.", True, "✗ declined"),
        ("Not run: the turn has had all its steps.", True, "✗ not run"),
    ],
)
def test_the_outcome_is_the_same_when_a_conversation_is_loaded_again(
    text: str, failed: bool, outcome: str
) -> None:
    call = ToolCall("read", {"path": "a"}, "1")
    assert result_lines(ToolResult(call, text, failed))[0] == outcome
    message = {"role": "tool", "name": "read", "tool_call_id": "1", "content": text}
    function = {"name": "read", "arguments": {"path": "a"}}
    card = str(ToolCard.past(message, {"1": function}).content)
    assert card.splitlines()[2].strip() == outcome
