"""A tiny model that says what a test writes, and a server's file, for the tests of tools."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from qwen3_mlx.model import Qwen3
from tests import tiny
from tests.tools.test_loop import GREEDY, call_text, say_in_turn
from tests.tools.test_servers import HOSTILE

__all__ = ["GREEDY", "call_text", "mcp_file", "model", "say_in_turn"]

OPTIONS = ("--temperature", "0", "--max-tokens", "120", "--no-think")


def model() -> Qwen3:
    return Qwen3(tiny.runtime(8, max_position_embeddings=8192))


def mcp_file(folder: Path, more: dict[str, Any] | None = None, **servers: str) -> Path:
    """A file of servers, each a hostile one that behaves as its word says."""
    entries: dict[str, Any] = {
        name: {"command": sys.executable, "args": [str(HOSTILE), how]}
        for name, how in servers.items()
    }
    file = folder / "mcp.json"
    file.write_text(json.dumps({"mcpServers": entries | (more or {})}), "utf-8")
    return file
