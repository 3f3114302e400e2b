"""The tool servers of one run, and the user's consent to their calls."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Collection
from pathlib import Path

from qwen3_mlx.cli.tools.shown import visible
from qwen3_mlx.errors import OptionError
from qwen3_mlx.events import ToolCall
from qwen3_mlx.tools.consent import NOBODY_TO_ASK, Ask, Consent, Decision, No
from qwen3_mlx.tools.server_file import ServerConfig, read_config
from qwen3_mlx.tools.servers import McpServers
from qwen3_mlx.tools.tool import Tool

AskServer = Callable[[ServerConfig], bool]
"""Shows a server's command to the user, and returns whether it may start."""


class ChatTools:
    """Servers and consent for one run of the program; nothing is stored.

    Until an interface sets `ask` and `ask_server`, only what `allowed` names is run.
    """

    def __init__(
        self, file: Path, allowed: Collection[str] = (), log_folder: Path | None = None
    ) -> None:
        """Read `file`; no server is started yet. Raises `OptionError`."""
        self.file = file
        self.ask: Ask = _ask_nobody
        self.ask_server: AskServer = _no_server
        configs = read_config(file)
        if not configs:
            hint = "they may all be disabled"
            raise OptionError(f"{file} lists no server", hint=hint)
        check_allowed(allowed, [config.name for config in configs])
        self._allowed = set(allowed)
        self._approved: set[str] = set()
        self.consent = Consent(self._ask_current, allowed)
        if log_folder is not None:
            with contextlib.suppress(OSError):
                log_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.servers = McpServers(configs, self._approve, log_folder=log_folder)

    def only_allowed(self) -> str:
        """Drop the servers that `allowed` doesn't name, for runs without a user to ask.

        Returns a note that names them; empty if there are none.
        """
        named = {name.partition(".")[0] for name in self._allowed}
        dropped = [one.name for one in self.configs if one.name not in named]
        self.servers.configs = [one for one in self.configs if one.name in named]
        allow = " ".join(f'--allow "{name}.*"' for name in dropped)
        names = ", ".join(dropped)
        return names and f"not started, as nobody is asked here: {names}; to allow them: {allow}"

    @property
    def configs(self) -> list[ServerConfig]:
        """The configurations of the file's servers."""
        return self.servers.configs

    def config(self, name: str) -> ServerConfig:
        """The configuration of the server `name`. Raises `OptionError`."""
        for one in self.configs:
            if one.name == name:
                return one
        names = ", ".join(one.name for one in self.configs)
        raise OptionError("no such server", got=name, expected=names)

    def start_all(self, say: Callable[[str], object] = lambda name: None) -> None:
        """Start every server that is approved; `say` gets each name before its start."""
        for config in self.configs:
            say(config.name)
            self.servers.start(config)

    def start(self, name: str) -> None:
        """Start or restart the server `name`. Raises `OptionError` if it is unknown."""
        self.servers.start(self.config(name))

    def stop(self, name: str) -> str:
        """Stop the server `name`, which may take seconds; returns a note. Raises `OptionError`."""
        self.servers.stop(self.config(name).name)
        self.servers.failures[name] = "stopped by you"
        return f"stopped: {name}"

    def _approve(self, config: ServerConfig) -> bool:
        """Whether a server may start; the user is asked once per command."""
        named = any(name.partition(".")[0] == config.name for name in self._allowed)
        if not named and config.digest not in self._approved and not self.ask_server(config):
            return False
        self._approved.add(config.digest)
        self.consent.allowed |= {f"{config.name}.{tool}" for tool in config.allowed}
        return True

    def _ask_current(self, call: ToolCall, tool: Tool) -> Decision:
        return self.ask(call, tool)

    def offered(self) -> list[Tool]:
        """The tools of the running servers, refreshed from servers whose tools have changed."""
        return self.servers.tools()

    def known(self) -> list[Tool]:
        """As `offered` but from the last refresh, without waiting for a server."""
        return self.servers.tools(refresh=False)

    def remarks(self) -> list[str]:
        """Notes for the user after a start: which servers run, and why others don't."""
        offered = self.offered()
        count = len({tool.server for tool in offered})
        what = f"{_counted(len(offered), 'tool')} of {_counted(count, 'server')}"
        notes = [f"{what}: /tools lists them"] if offered else []
        try:
            check_tools(self._allowed, offered)
        except OptionError as error:
            notes.append(str(error))
        return [*notes, *map(visible, self.servers.remarks())]

    def close(self) -> None:
        """Stop all servers."""
        self.servers.close()


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _no_server(_config: ServerConfig) -> bool:
    return False


def _ask_nobody(_call: ToolCall, _tool: Tool) -> Decision:
    return No(NOBODY_TO_ASK)


def check_allowed(allowed: Collection[str], servers: Collection[str]) -> None:
    """Raise `OptionError` unless each ``--allow`` is ``server.tool`` with a server of the file."""
    for name in allowed:
        server, dot, tool = name.partition(".")
        if not dot or not tool:
            hint = "server.* allows all tools of a server"
            raise OptionError("--allow", got=name, expected="server.tool", hint=hint)
        if server not in servers:
            known = ", ".join(servers)
            raise OptionError(f"--allow {name}", got=f"no server {server!r}", expected=known)


def check_tools(allowed: Collection[str], tools: Collection[Tool]) -> None:
    """Raise `OptionError` if ``--allow`` names a tool that its server doesn't have."""
    names = [tool.full_name for tool in tools]
    servers = {tool.server for tool in tools}
    for name in allowed:
        if name.partition(".")[0] in servers and not name.endswith(".*") and name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(names)}"
            raise OptionError("--allow names no tool", got=name, hint=hint)
