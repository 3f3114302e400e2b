"""What a step of the tool loop costs beside the model, in ms, and what ten steps compute.

    python -m benchmarks.tool_steps            the demo; --turns N

The model says what is written down; its network runs. A step's cost is the time from the model's
last word to its next forward pass: the call is read, allowed and run, its result is cut, the
conversation is rendered and encoded. Two tools that return at once: a function, and a server.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.record import summary, write
from qwen3_mlx.events import Done
from qwen3_mlx.model import Qwen3, load
from qwen3_mlx.tools.agent import tool_of
from qwen3_mlx.tools.consent import Consent
from qwen3_mlx.tools.events import ToolResult
from qwen3_mlx.tools.loop import ToolLoop
from qwen3_mlx.tools.server_file import ServerConfig
from qwen3_mlx.tools.servers import McpServers
from qwen3_mlx.tools.tool import Tool

STEPS = 10


def clocks() -> tuple[float, float]:
    """Seconds on the wall, and of this process's processors."""
    return time.perf_counter(), time.process_time()


class Passes:
    """The forward passes of a network: when each began, by both clocks, and its tokens."""

    def __init__(self) -> None:
        self.tokens = 0
        self.began: list[tuple[float, float]] = []

    @contextmanager
    def noted(self, model: Qwen3) -> Iterator[None]:
        """Within, every forward pass of `model` is noted."""
        kind: Any = type(model.runtime.network.model)
        forward = kind.__call__

        def note(network: Any, ids: Any, *more: Any, **named: Any) -> Any:
            self.began.append(clocks())
            self.tokens += ids.shape[-1]
            return forward(network, ids, *more, **named)

        kind.__call__ = note
        try:
            yield
        finally:
            kind.__call__ = forward


def turn(model: Qwen3, tool: Tool, say: Callable[[list[str]], object]) -> dict[str, Any]:
    """A turn of ten steps: the cost of those behind the first, in ms, and the tokens computed."""
    words = "<think>\nStep %d.\n</think>\n\n"
    words += '<tool_call>\n{"name": "%s", "arguments": {"n": %d}}\n</tool_call>'
    calls = [words % (n, tool.name, n) for n in range(STEPS - 1)]
    say([*calls, "<think>\nSo.\n</think>\n\nDone."])
    session = model.session(temperature=0.0, max_tokens=120, thinking=True)
    loop, passes, costs = ToolLoop(session, [tool], Consent(None, [tool.full_name])), Passes(), []
    processor: list[float] = []
    ended, seen = None, 0
    with passes.noted(model):
        for event in loop.send("Go."):
            if ended and len(passes.began) > seen:
                costs.append((passes.began[seen][0] - ended[0]) * 1e3)
                processor.append((passes.began[seen][1] - ended[1]) * 1e3)
                ended = None
            if isinstance(event, Done):
                ended, seen = clocks(), len(passes.began)
            if isinstance(event, ToolResult) and event.failed:
                raise SystemExit(f"the tool failed: {event.text}")
    assert len(costs) == STEPS - 1, f"{len(costs)} steps"
    held = len(session.cache.tokens)
    return {"ms": costs, "processor_ms": processor, "computed": passes.tokens, "held": held}


def main() -> None:
    from pytest import MonkeyPatch

    from tests.tools.test_loop import say_in_turn
    from tests.tools.test_servers import HOSTILE

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--turns", type=int, default=5)
    asked, model, patch = parser.parse_args(), load("demo"), MonkeyPatch()

    def echo(n: int) -> str:
        "Says it."
        return str({"n": n})

    server = ServerConfig("s", (sys.executable, str(HOSTILE), "well"))
    rows: dict[str, Any] = {}
    with McpServers([server]) as servers:
        tools = {"function": tool_of(echo), "stdio server": servers.tools()[0]}
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in tools}
        for _ in range(asked.turns):
            for name, tool in tools.items():
                found[name].append(turn(model, tool, lambda said: say_in_turn(patch, model, said)))
    for name, turns in found.items():
        costs = [ms for one in turns for ms in one["ms"]]
        rows[name] = {
            "ms": summary(costs),
            "processor_ms": summary([ms for one in turns for ms in one["processor_ms"]]),
            "computed": statistics.median(one["computed"] for one in turns),
            "held": statistics.median(one["held"] for one in turns),
        }
        wall, processor = (rows[name][kind]["median"] for kind in ("ms", "processor_ms"))
        print(
            f"{name}: a step costs {wall:.2f} ms beside the model, {processor:.2f} of the processor"
            f" ({len(costs)} steps); {STEPS} steps computed {rows[name]['computed']:g} tokens, the"
            f" conversation has {rows[name]['held']:g}"
        )
    print(write("tool-steps", rows))


if __name__ == "__main__":
    main()
