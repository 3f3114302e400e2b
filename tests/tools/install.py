"""Installs the MCP servers that others wrote: ``python -m tests.tools.install DIR``.

They come by npm, with a Node of their own from a wheel, 200 MB in all; the tests look for them in
the folder that the variable QWEN3_MLX_MCP_SERVERS names. mcp-server-time is in the group "clients".
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.clients.install import bring, node

VARIABLE = "QWEN3_MLX_MCP_SERVERS"
HOW = f"not installed: python -m tests.tools.install DIR, and {VARIABLE}=DIR"
SCOPE = "@modelcontextprotocol"
PACKAGES = {
    f"{SCOPE}/server-everything": "2026.8.31",
    f"{SCOPE}/server-filesystem": "2026.8.31",
}


def command(name: str) -> tuple[str, ...] | None:
    """What starts the server `name`, such as "filesystem"; None where it isn't installed."""
    folder = Path(os.environ.get(VARIABLE) or "no folder")
    script = folder / "node_modules" / SCOPE / f"server-{name}" / "dist" / "index.js"
    return (str(node(folder) / "node"), str(script)) if script.is_file() else None


if __name__ == "__main__":
    bring(Path(sys.argv[1]).resolve(), PACKAGES)
