"""A small server written with the official SDK; stdio, or HTTP at the port it is given."""

import sys

from mcp.server.mcpserver import MCPServer  # type: ignore[import-not-found,unused-ignore]

server = MCPServer("small", log_level="ERROR")


@server.tool()
def add(a: int, b: int) -> int:
    "Adds two numbers."
    return a + b


@server.tool()
def fail() -> str:
    "Fails."
    raise ValueError("no luck")


if len(sys.argv) > 1:
    server.run(transport="streamable-http", port=int(sys.argv[1]))
else:
    server.run(transport="stdio")
