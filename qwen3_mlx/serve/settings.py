"""How to serve: where, for whom, how much at once."""

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
"""The variable that holds the key."""
ANYWHERE = ("0.0.0.0", "::", "")


@dataclass(frozen=True)
class Settings:
    """How to serve."""

    host: str = "127.0.0.1"
    port: int = 8080
    api_key_file: Path | None = None
    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    """Names beside the machine's own that a client may call it by."""
    strict: bool = False
    """Whether a request that names another model is refused."""
    parallel: int = 8
    queue: int = 64
    prefix_gb: float | None = None
    prefix_folder: Path | None = None
    """Where kept conversations are written at the end; None is nowhere."""
    drain_seconds: float = 30.0

    def rules(self) -> Rules:
        """Who may ask. Raises `OptionError`: off loopback nobody may without a key."""
        from qwen3_mlx.serve.guard import (
            LOOPBACK,
            Rules,
        )  # with asyncio, which takes long to import

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
        """The key, from its file or the environment. Raises `OptionError`."""
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
    """What this machine is called in its network: its name, and its addresses by that name."""
    name = socket.gethostname()
    try:
        addresses = {str(found[4][0]) for found in socket.getaddrinfo(name, None)}
    except OSError:
        addresses = set()
    return {name, f"{name}.local", *addresses}
