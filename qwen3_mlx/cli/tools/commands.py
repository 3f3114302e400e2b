"""The slash commands /tools and /mcp."""

from __future__ import annotations

import json

from qwen3_mlx.cli.chat.conversation import Conversation
from qwen3_mlx.cli.chat.result import CommandResult
from qwen3_mlx.cli.terminal.render import counted
from qwen3_mlx.cli.tools import shown
from qwen3_mlx.cli.tools.chat_tools import ChatTools
from qwen3_mlx.errors import OptionError
from qwen3_mlx.tools.server_file import ServerConfig
from qwen3_mlx.tools.tool import Tool

SHORT = 72
"""Characters of a description that the list shows."""


def tools(chat: Conversation, text: str) -> CommandResult:
    """List the tools, show one in full, or forget the consent given in this session."""
    ours = _tools_of(chat)
    offered = ours.known()
    if text == "forget":
        ours.consent.forget()
        return CommandResult("every tool that the command line doesn't allow is asked for again")
    if text:
        return CommandResult(_whole(ours, offered, text))
    if not offered:
        return CommandResult("no tools: /mcp says which servers run")
    rows = [f"{shown.visible(one.full_name)}  {_consent(ours, one)}" for one in offered]
    return CommandResult("\n".join(rows) + "\n/tools NAME shows one whole; /tools forget")


def mcp(chat: Conversation, text: str) -> CommandResult:
    """List the servers, or start or stop one."""
    ours = _tools_of(chat)
    word, _, name = text.partition(" ")
    if word == "restart" and name:
        return CommandResult(start_server=ours.config(name.strip()).name)
    if word == "stop" and name:
        return CommandResult(stop_server=ours.config(name.strip()).name)
    if word:
        raise OptionError("/mcp", got=text, expected="nothing, restart NAME, or stop NAME")
    return CommandResult("\n".join(server_state(ours, one) for one in ours.configs))


def server_state(tools: ChatTools, config: ServerConfig) -> str:
    """A server's state and its command or address, on several lines."""
    offered = [tool for tool in tools.known() if tool.server == config.name]
    if config.name in tools.servers.clients:
        state = f"runs, {counted(len(offered), 'tool')}"
    else:
        why = shown.visible(tools.servers.failures.get(config.name, "not started"))
        state = f"doesn't run: {why} (/mcp restart {config.name})"
    remarks = getattr(tools.servers.clients.get(config.name), "remarks", [])
    lines = [*shown.server_lines(config), *map(shown.visible, remarks)]
    return "\n".join([f"{config.name} {state}", *(f"  {line}" for line in lines)])


def _tools_of(chat: Conversation) -> ChatTools:
    if chat.tools is None:
        hint = "qwen3-mlx chat --mcp FILE offers the tools of the servers in FILE (docs/tools.md)"
        raise OptionError("this chat has no tools", hint=hint)
    return chat.tools


def _consent(ours: ChatTools, tool: Tool) -> str:
    asks = "runs unasked" if ours.consent.allows(tool) else "asks"
    words = shown.visible(" ".join(tool.description.split()))
    return f"({asks})  {words if len(words) <= SHORT else words[: SHORT - 1] + '…'}"


def _whole(ours: ChatTools, offered: list[Tool], name: str) -> str:
    found = [tool for tool in offered if name in (tool.full_name, tool.name)]
    if not found:
        known = ", ".join(tool.full_name for tool in offered)
        raise OptionError("/tools", got=name, expected=known or "a server that runs")
    tool = found[0]
    asks = "runs unasked" if ours.consent.allows(tool) else "is asked for"
    text = [f"{shown.title(tool)}: {asks}"]
    text += [f"│ {shown.visible(line)}" for line in tool.description.split("\n")]
    schema = json.dumps(tool.parameters, ensure_ascii=False, indent=1)
    return "\n".join([*text, *map(shown.visible, schema.split("\n"))])
