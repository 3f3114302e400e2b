"""The running MCP servers of a session, and their tools."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen3_mlx.errors import Qwen3Error, ToolError
from qwen3_mlx.tools.server_file import ServerConfig
from qwen3_mlx.tools.tool import CALL_SECONDS, Cancel, Result, Tool
from qwen3_mlx.tools.transport import Receiver, Transport

if TYPE_CHECKING:
    from qwen3_mlx.tools.client import McpClient


class McpServers:
    """The running servers of one session: a context manager that ends them on exit.

    `approve` is called before a server is started. A server that is refused or fails is left out,
    and `failures` says why.
    """

    def __init__(
        self,
        configs: list[ServerConfig],
        approve: Callable[[ServerConfig], bool] = lambda config: True,
        *,
        log_folder: Path | None = None,
        call_seconds: float = CALL_SECONDS,
    ) -> None:
        self.configs = configs
        self._approve, self._log_folder, self._seconds = approve, log_folder, call_seconds
        self.clients: dict[str, McpClient] = {}
        self.failures: dict[str, str] = {}
        self.changed = False
        """Whether a server has announced changed tools since `tools` last refreshed them."""
        self._listed: dict[str, list[dict[str, Any]]] = {}

    def __enter__(self) -> McpServers:
        try:
            for config in self.configs:
                self.start(config)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, config: ServerConfig) -> None:
        """Start or restart a server; an error is recorded in `failures`."""
        from qwen3_mlx.tools.client import McpClient

        self.stop(config.name)
        if not self._approve(config):
            self.failures[config.name] = "not allowed to start"
            return
        try:
            client = McpClient(config.name, lambda to: self._open(config, to), self._note_change)
            self.clients[config.name] = client
            self._listed[config.name] = client.list_tools()
            self.failures.pop(config.name, None)
        except Qwen3Error as error:
            hint = f" ({error.hint})" if error.hint else ""
            self.failures[config.name] = f"{error.summary}{hint}"
            self.stop(config.name)

    def stop(self, name: str) -> None:
        """End the server `name`, if it runs."""
        self._listed.pop(name, None)
        if client := self.clients.pop(name, None):
            client.close()

    def _note_change(self) -> None:
        self.changed = True

    def _open(self, config: ServerConfig, receiver: Receiver) -> Transport:
        if config.url:
            from qwen3_mlx.tools.http import Http  # http.client is slow to import

            return Http(config.url, config.headers, receiver)
        from qwen3_mlx.tools.stdio import Stdio

        log = self._log_folder / f"{config.name}.log" if self._log_folder else None
        return Stdio(config.command, config.env, receiver, log, config.cwd)

    def tools(self, *, refresh: bool = True) -> list[Tool]:
        """The running servers' tools; those that share a name are called ``server__tool``.

        A server that has ended is removed, and recorded in `failures`. With `refresh`, all servers
        are asked again if one has announced changed tools, which may take a while.
        """
        for name, client in list(self.clients.items()):
            if why := client.ended:
                self.stop(name)
                self.failures[name] = why
        if refresh and self.changed:
            self.changed = False
            for name, client in list(self.clients.items()):
                try:
                    self._listed[name] = client.list_tools()
                except ToolError as error:
                    self.failures[name] = error.summary
                    self.stop(name)
        known = {config.name: config for config in self.configs}
        every = [
            (name, one)
            for name, listed in list(self._listed.items())
            for one in listed
            if name not in known or known[name].offers(one["name"])
        ]
        names = _told_apart([(name, one["name"]) for name, one in every])
        return [
            self._tool(server, one, name) for name, (server, one) in zip(names, every, strict=True)
        ]

    def remarks(self) -> list[str]:
        """Messages for the user: failures, tools left out, and unknown names in the file."""
        failed = [f"{name}: {why}" for name, why in self.failures.items()]
        listed = [remark for client in self.clients.values() for remark in client.remarks]
        return (
            failed + listed + [remark for config in self.configs for remark in self._gone(config)]
        )

    def _gone(self, config: ServerConfig) -> list[str]:
        """Remarks on names in the file that none of the server's tools has."""
        if config.name not in self._listed:
            return []
        has = {one["name"] for one in self._listed[config.name]}
        named = {"includeTools": config.only or (), "excludeTools": config.without}
        return [
            f"{config.name}: {key} names {', '.join(lost)}, which it hasn't"
            for key, names in named.items()
            if (lost := [name for name in names if name not in has])
        ]

    def _tool(self, server: str, one: dict[str, Any], name: str) -> Tool:
        called = one["name"]

        def run(arguments: dict[str, Any], cancel: Cancel) -> Result:
            client = self.clients.get(server)
            if client is None:
                return Result(f"the server {server} doesn't run", failed=True)
            return client.call(called, arguments, cancel, self._seconds)

        return Tool(
            name=name,
            description=one["description"],
            parameters=one["inputSchema"],
            run=run,
            server=server,
            called=called,
            hints=one["hints"],
        )

    def close(self) -> None:
        """End all servers in parallel, as each may take some seconds."""
        ends = [threading.Thread(target=self.stop, args=(name,)) for name in list(self.clients)]
        for end in ends:
            end.start()
        for end in ends:
            end.join()


def _told_apart(tools: list[tuple[str, str]]) -> list[str]:
    """The tools' names for the model, of (server, tool): each is another.

    Those that share a name are called ``server__tool``, and where one is called so already, or
    two would be, a number follows.
    """
    counted = Counter(tool for _, tool in tools)
    plain = {tool for tool, count in counted.items() if count == 1}
    names, taken = list[str](), set[str](plain)
    for server, tool in tools:
        name = tool
        if tool not in plain:
            number, whole = 1, f"{server}__{tool}"
            name = whole
            while name in taken:
                number += 1
                name = f"{whole}_{number}"
        taken.add(name)
        names.append(name)
    return names
