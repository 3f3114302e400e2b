"""Settings of the server: its address, its access rules and its limits."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qwen3_mlx.errors import OptionError
from qwen3_mlx.files import expanded, read_given

if TYPE_CHECKING:
    from qwen3_mlx.serve.guard import Rules

KEY = "QWEN3_MLX_API_KEY"
"""The environment variable that holds the API key."""
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
        """The access rules. Raises `OptionError` without a key, unless the host is loopback."""
        from qwen3_mlx.serve.guard import (
            LOOPBACK,
            Rules,
        )  # imports asyncio, which is slow

        key = self.key()
        if key is None and self.host not in LOOPBACK:
            hint = f"--api-key-file FILE, or the variable {KEY}; or serve on 127.0.0.1"
            raise OptionError(
                "a key is needed where other machines can ask", got=f"--host {self.host}", hint=hint
            )
        named = _own_names() if self.host in ANYWHERE else {self.host}
        hosts = LOOPBACK | {name.lower() for name in (*named, *self.hosts)}
        return Rules(hosts=hosts, origins=frozenset(self.origins), key=key)

    def key(self) -> str | None:
        """The API key, from its file, else the environment; None if unset. Raises `OptionError`."""
        if self.api_key_file is None:
            return os.environ.get(KEY, "").strip() or None
        try:
            key = read_given(expanded(self.api_key_file)).decode("utf-8").strip()
        except (OSError, ValueError) as error:
            got = getattr(error, "strerror", None) or str(error)
            raise OptionError(f"{self.api_key_file} can't be read", got=got) from None
        if not key or not key.isprintable() or not key.isascii():
            expected = "the key, in one line of ASCII"
            raise OptionError(f"{self.api_key_file} holds no key", expected=expected)
        return key


def _own_names() -> set[str]:
    """This machine's host name, also with ``.local``, and the addresses it resolves to."""
    name = socket.gethostname()
    try:
        addresses = {str(found[4][0]) for found in socket.getaddrinfo(name, None)}
    except OSError:
        addresses = set()
    return {name, f"{name}.local", *addresses}
