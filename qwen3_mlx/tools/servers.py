"""The MCP servers in a configuration file of the usual form, ``mcpServers``, and their processes.

{"mcpServers": {"time": {"command": "mcp-server-time", "args": [], "env": {}},
                "docs": {"url": "https://…/mcp", "headers": {}}}}
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen3_mlx.errors import OptionError, Qwen3Error, ToolError
from qwen3_mlx.files import read_given
from qwen3_mlx.tools.tool import CALL_SECONDS, Cancel, Result, Tool
from qwen3_mlx.tools.transport import Receiver, Transport

if TYPE_CHECKING:
    from qwen3_mlx.tools.client import McpClient

_NAME = re.compile(r"[\w-]{1,64}")
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")
_MOST_SERVERS = 64


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """One server in the file: a command, or an address."""

    name: str
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    url: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    allowed: tuple[str, ...] = ()
    """``alwaysAllow``: tools that run without asking."""
    only: tuple[str, ...] | None = None
    """``includeTools``: the only tools on offer; None offers all."""
    without: tuple[str, ...] = ()
    """``excludeTools``: tools that are not on offer."""

    def offers(self, tool: str) -> bool:
        """Whether the file's choice of tools includes `tool`."""
        return (self.only is None or tool in self.only) and tool not in self.without

    @property
    def shown(self) -> str:
        """The command or address for the user; values of environment variables are hidden."""
        if self.url:
            return self.url
        names = "".join(f"{name}=… " for name in self.env)
        return names + " ".join(self.command)

    @property
    def digest(self) -> str:
        """A hash of command, env names, cwd, url, alwaysAllow: if it changes, approval lapses."""
        told = json.dumps([self.command, sorted(self.env), self.cwd, self.url, self.allowed])
        return hashlib.sha256(told.encode()).hexdigest()[:16]


def read_config(path: Path) -> list[ServerConfig]:
    """The enabled servers in the file. Raises `OptionError`, naming the file and the key."""
    try:
        found = json.loads(read_given(path).decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        got = getattr(error, "strerror", None) or str(error)
        raise OptionError(f"{path} can't be read", got=got, expected=_FORM) from None
    servers = found.get("mcpServers", found.get("servers")) if isinstance(found, dict) else None
    if not isinstance(servers, dict):
        raise OptionError(f"{path}", got="no mcpServers", expected=_FORM)
    if len(servers) > _MOST_SERVERS:
        raise OptionError(f"{path}", got=f"{len(servers)} servers", expected="64 at most")
    made = [_server(name, one, f"{path}: {name}") for name, one in servers.items()]
    return [one for one in made if one is not None]


_FORM = '{"mcpServers": {"name": {"command": "…", "args": []}}} or {"url": "https://…"}'


def _server(name: str, one: Any, where: str) -> ServerConfig | None:
    if not isinstance(one, dict):
        raise OptionError(where, got=type(one).__name__, expected="an object")
    if not _NAME.fullmatch(name):
        raise OptionError(where, got=f"the name {name!r}", expected="letters, digits, - and _")
    if one.get("disabled") is True or one.get("enabled") is False:
        return None
    url, command = one.get("url") or one.get("httpUrl"), one.get("command")
    base = _chosen(name, one, where)
    if one.get("type") == "sse":
        hint = "its streamable HTTP address often ends in /mcp"
        raise OptionError(where, got="the transport sse, given up in 2025", hint=hint)
    if isinstance(url, str) and command is None:
        headers = _texts(one.get("headers"), f"{where}.headers")
        return replace(base, url=_expanded(url, where), headers=headers)
    if not isinstance(command, str) or not command.strip() or url is not None:
        raise OptionError(where, got=sorted(one), expected="either command or url")
    args = _words(one.get("args"), f"{where}.args")
    cwd = one.get("cwd")
    if cwd is not None and not isinstance(cwd, str):
        raise OptionError(f"{where}.cwd", got=cwd, expected="a folder")
    words = tuple(_expanded(word, where) for word in (command, *args))
    env = _texts(one.get("env"), f"{where}.env")
    return replace(base, command=words, env=env, cwd=cwd)


def _chosen(name: str, one: dict[str, Any], where: str) -> ServerConfig:
    """A `ServerConfig` with the entry's choice of tools, without command or address."""
    allowed, only, without = (
        _words(one.get(key), f"{where}.{key}")
        for key in ("alwaysAllow", "includeTools", "excludeTools")
    )
    chosen = None if one.get("includeTools") is None else only
    return ServerConfig(name, allowed=allowed, only=chosen, without=without)


def _words(value: Any, where: str) -> tuple[str, ...]:
    value = value or []
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise OptionError(where, got=value, expected="a list of texts")
    return tuple(value)


def _texts(value: Any, where: str) -> dict[str, str]:
    value = value or {}
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise OptionError(where, got=type(value).__name__, expected="an object of texts")
    return {str(key): _expanded(text, where) for key, text in value.items()}


def _expanded(text: str, where: str) -> str:
    """`text` with ``${NAME}`` and ``${NAME:-default}`` replaced from the environment.

    Raises `OptionError` for a variable that is not set and has no default.
    """

    def value(found: re.Match[str]) -> str:
        known = os.environ.get(found[1], found[2])
        if known is None:
            raise OptionError(
                where, got=f"{found[0]}, which isn't set", hint=f"export {found[1]}=…"
            )
        return known

    return _VARIABLE.sub(value, text)


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
        counted = Counter(one["name"] for _, one in every)
        return [self._tool(name, one, counted[one["name"]] > 1) for name, one in every]

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

    def _tool(self, server: str, one: dict[str, Any], twice: bool) -> Tool:
        called = one["name"]

        def run(arguments: dict[str, Any], cancel: Cancel) -> Result:
            client = self.clients.get(server)
            if client is None:
                return Result(f"the server {server} doesn't run", failed=True)
            return client.call(called, arguments, cancel, self._seconds)

        return Tool(
            name=f"{server}__{called}" if twice else called,
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
