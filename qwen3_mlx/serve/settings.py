"""Settings of the server: its address, its access rules and its limits."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING

from qwen3_mlx.errors import OptionError
from qwen3_mlx.files import expanded, read_given

if TYPE_CHECKING:
    from qwen3_mlx.serve.guard import Rules

KEY = "QWEN3_MLX_API_KEY"
"""The environment variable that holds the API key."""
_HOST = re.compile(r"[\w.-]+|[0-9a-f:.]*:[0-9a-f:.]*")
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([\w.-]+|\[[0-9a-f:.]+\])(:\d{1,5})?/?")
ANYWHERE = ("0.0.0.0", "::", "")


@dataclass(frozen=True)
class Settings:
    """The settings of `serve`; the defaults serve this machine alone."""

    host: str = "127.0.0.1"
    port: int = 8080
    api_key_file: Path | None = None
    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    """Host names that clients may use besides the machine's own."""
    strict: bool = False
    """Whether requests that name another model are refused."""
    parallel: int = 8
    queue: int = 64
    prefix_gb: float | None = None
    prefix_folder: Path | None = None
    """The folder for conversations saved at the end; None saves none."""
    drain_seconds: float = 30.0

    def rules(self) -> Rules:
        """The access rules. Raises `OptionError` without a key, unless the host is loopback.

        Also for a host or an origin that no request could have, and for a limit below 0.
        """
        from qwen3_mlx.serve.guard import (
            LOOPBACK,
            Rules,
        )  # imports asyncio, which is slow

        self._check()
        key = self.key()
        if key is None and self.host not in LOOPBACK:
            hint = f"--api-key-file FILE, or the variable {KEY}; or serve on 127.0.0.1"
            raise OptionError(
                "a key is needed where other machines can ask", got=f"--host {self.host}", hint=hint
            )
        named = {self.host} | (_own_names() if self.host in ANYWHERE else set())
        hosts = LOOPBACK | {name.lower() for name in named} | {_host(name) for name in self.hosts}
        return Rules(hosts=hosts, origins=frozenset(map(_origin, self.origins)), key=key)

    def _check(self) -> None:
        """Raise `OptionError` for a host that is no address, and for a limit below 0."""
        if not _is_address(self.host):
            expected, hint = "a name or an address alone, as in 127.0.0.1", "the port by --port"
            raise OptionError("--host", got=self.host, expected=expected, hint=hint)
        for flag, value in (("--drain", self.drain_seconds), ("--prefix-memory", self.prefix_gb)):
            if value is not None and not 0 <= value < float("inf"):
                raise OptionError(flag, got=value, expected="0 or more")

    def key(self) -> str | None:
        """The API key, from its file, else the environment; None if unset. Raises `OptionError`."""
        if self.api_key_file is None:
            key = os.environ.get(KEY, "").strip()
            return _checked_key(key, f"the variable {KEY}") if key else None
        try:
            key = read_given(expanded(self.api_key_file)).decode("utf-8").strip()
        except (OSError, ValueError) as error:
            got = getattr(error, "strerror", None) or str(error)
            raise OptionError(f"{self.api_key_file} can't be read", got=got) from None
        return _checked_key(key, str(self.api_key_file))


def _is_address(host: str) -> bool:
    """Whether a socket could be bound to `host`: no URL, no port, no brackets."""
    try:
        return ":" not in host or IPv6Address(host.partition("%")[0]).version == 6
    except ValueError:
        return False


def _checked_key(key: str, where: str) -> str:
    """`key`. Raises `OptionError` for one that no header can carry; it is not shown."""
    if not key or not key.isprintable() or not key.isascii():
        raise OptionError(f"{where} holds no key", expected="the key, in one line of ASCII")
    return key


def _host(said: str) -> str:
    """The name in `said`, as a Host header's is compared: without a port. Raises `OptionError`."""
    from qwen3_mlx.serve.guard import host_name

    text = said.strip()
    name = text.lower() if text.count(":") > 1 and "[" not in text else host_name(text)
    if not _HOST.fullmatch(name):
        hint = "each name by an --allow-host of its own; a web page's is an --origin"
        raise OptionError("--allow-host", got=said, expected="a name, as in foo.local", hint=hint)
    return name


def _origin(said: str) -> str:
    """`said` as browsers write an origin: no slash, no usual port. Raises `OptionError`."""
    found = _ORIGIN.fullmatch(said.strip().lower())
    if found is None:
        expected = "scheme, host and port, as in http://localhost:3000"
        hint = "each page that may ask by an --origin of its own; there is none for all"
        raise OptionError("--origin", got=said, expected=expected, hint=hint)
    scheme, host, port = found.groups()
    usual = port == {"http": ":80", "https": ":443"}.get(scheme)
    return f"{scheme}://{host}{'' if usual or not port else port}"


def _own_names() -> set[str]:
    """This machine's host name, also with ``.local``, and the addresses it resolves to."""
    name = socket.gethostname()
    try:
        addresses = {str(found[4][0]) for found in socket.getaddrinfo(name, None)}
    except OSError:
        addresses = set()
    return {name, f"{name}.local", *addresses}
