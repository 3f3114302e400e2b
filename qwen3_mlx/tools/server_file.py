"""The MCP servers in a configuration file of the usual form, ``mcpServers``.

{"mcpServers": {"time": {"command": "mcp-server-time", "args": [], "env": {}},
                "docs": {"url": "https://…/mcp", "headers": {}}}}
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from qwen3_mlx.errors import OptionError
from qwen3_mlx.files import read_given
from qwen3_mlx.tools.address import check_headers, checked_address

_NAME = re.compile(r"[\w-]{1,64}")
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")
_MOST_SERVERS = 64
_ADDRESS = ("url", "httpUrl", "serverUrl")
_READ = (*_ADDRESS, "command", "args", "env", "cwd", "headers", "type", "disabled", "enabled",
         "alwaysAllow", "includeTools", "excludeTools")  # fmt: skip
"""The keys that are read. Other programs have others, so only what is nearly one of these is
refused: a misspelt ``excludeTools`` would offer every tool."""
_MEANT = {"arguments": "args", "environment": "env", "workingdirectory": "cwd"}
"""Words that are taken for a key, in small letters."""


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
        text = read_given(path).decode("utf-8-sig")
        found = json.loads(text, object_pairs_hook=_each_once)
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


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object; JSON itself would drop all but the last of several keys of one name."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} twice in one object")
        found[key] = value
    return found


_FORM = '{"mcpServers": {"name": {"command": "…", "args": []}}} or {"url": "https://…"}'


def _server(name: str, one: Any, where: str) -> ServerConfig | None:
    if not isinstance(one, dict):
        raise OptionError(where, got=type(one).__name__, expected="an object")
    if not _NAME.fullmatch(name):
        raise OptionError(where, got=f"the name {name!r}", expected="letters, digits, - and _")
    _check_spelling(one, where)
    for key in ("disabled", "enabled"):
        if not isinstance(one.get(key), bool | None):
            raise OptionError(f"{where}.{key}", got=json.dumps(one[key]), expected="true or false")
    if one.get("disabled") is True or one.get("enabled") is False:
        return None
    url = next((one[key] for key in _ADDRESS if one.get(key)), None)
    command = one.get("command")
    base = _chosen(name, one, where)
    if one.get("type") == "sse":
        hint = "its streamable HTTP address often ends in /mcp"
        raise OptionError(where, got="the transport sse, given up in 2025", hint=hint)
    if isinstance(url, str) and command is None:
        headers = _texts(one.get("headers"), f"{where}.headers")
        check_headers(headers, f"{where}.headers")
        address = _expanded(url, where)
        checked_address(address, f"{where}: a server's url")
        return replace(base, url=address, headers=headers)
    if isinstance(command, list) and url is None:
        hint = '"command" is the program alone; what stands behind it belongs into "args"'
        raise OptionError(f"{where}.command", got="a list", expected="a text", hint=hint)
    if not isinstance(command, str) or not command.strip() or url is not None:
        raise OptionError(where, got=sorted(one), expected="either command or url")
    args = _words(one.get("args"), f"{where}.args")
    cwd = one.get("cwd")
    if cwd is not None and not isinstance(cwd, str):
        raise OptionError(f"{where}.cwd", got=cwd, expected="a folder")
    words = tuple(_expanded(word, where) for word in (command, *args))
    env = _texts(one.get("env"), f"{where}.env")
    return replace(base, command=words, env=env, cwd=cwd)


def _check_spelling(one: dict[str, Any], where: str) -> None:
    """Raise `OptionError` for a key that is nearly one of those that are read."""
    meant = {_letters(key): key for key in _READ} | _MEANT
    for key in one:
        near = difflib.get_close_matches(_letters(key), meant, n=1, cutoff=0.8)
        if key not in _READ and near:
            raise OptionError(where, got=f"the key {key!r}", expected=meant[near[0]])


def _letters(key: str) -> str:
    return re.sub(r"[-_ ]", "", key).lower()


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
        raise OptionError(where, got=json.dumps(value), expected="a list of texts")
    return tuple(value)


def _texts(value: Any, where: str) -> dict[str, str]:
    value = value or {}
    if not isinstance(value, dict):
        raise OptionError(where, got=type(value).__name__, expected="an object of texts")
    for key, text in value.items():
        if not isinstance(text, str):  # which may be a secret
            got, hint = type(text).__name__, f'between quotes: {{"{key}": "…"}}'
            raise OptionError(f"{where}.{key}", got=got, expected="a text", hint=hint)
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
