"""Runs the server: the port first, then the model, then requests until a signal ends it."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from qwen3_mlx.chat.turns import new_scheduler
from qwen3_mlx.engine.scheduler_thread import SchedulerThread
from qwen3_mlx.errors import OptionError
from qwen3_mlx.fit.machine import this_machine
from qwen3_mlx.model import Qwen3
from qwen3_mlx.serve.app import build
from qwen3_mlx.serve.desk import Desk
from qwen3_mlx.serve.guard import LOOPBACK, Rules

KEY = "QWEN3_MLX_API_KEY"
"""The variable that holds the key."""


@dataclass(frozen=True)
class Settings:
    """How to serve."""

    host: str = "127.0.0.1"
    port: int = 8080
    api_key_file: Path | None = None
    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    parallel: int = 8
    queue: int = 64
    prefix_gb: float | None = None
    drain_seconds: float = 30.0
    strict: bool = False

    def rules(self) -> Rules:
        """Who may ask. Raises `OptionError`: off loopback nobody may without a key."""
        key = self.key()
        if key is None and self.host not in LOOPBACK:
            hint = f"--api-key-file FILE, or the variable {KEY}; or serve on 127.0.0.1"
            raise OptionError(
                "a key is needed where other machines can ask", got=f"--host {self.host}", hint=hint
            )
        named = {self.host} if self.host not in ("0.0.0.0", "::") else _own_names()
        hosts = LOOPBACK | frozenset(name.lower() for name in (*named, *self.hosts))
        return Rules(hosts=hosts, origins=frozenset(self.origins), key=key)

    def key(self) -> str | None:
        """The key, from its file or the environment. Raises `OptionError`."""
        if self.api_key_file is None:
            return os.environ.get(KEY, "").strip() or None
        try:
            key = self.api_key_file.read_text("utf-8").strip()
        except (OSError, ValueError) as error:
            got = getattr(error, "strerror", None) or str(error)
            raise OptionError(f"{self.api_key_file} can't be read", got=got) from None
        if not key:
            raise OptionError(f"{self.api_key_file} is empty", expected="the key, in one line")
        return key


def _own_names() -> set[str]:
    name = socket.gethostname()
    return {name, f"{name}.local"}


def bind(host: str, port: int) -> socket.socket:
    """The socket to listen on. Raises `OptionError` if it can't be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
    except (OSError, OverflowError) as error:
        found.close()
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        hint = (
            "another server runs there; choose another with --port, or 0 for any" if taken else None
        )
        got = getattr(error, "strerror", None) or str(error)
        raise OptionError(f"can't serve on {host} port {port}", got=got, hint=hint) from None
    return found


def start(model: Qwen3, settings: Settings) -> Desk:
    """Begin to compute for `model`, in a thread of its own."""
    free = this_machine().available_bytes
    prefixes = free // 4 if settings.prefix_gb is None else int(settings.prefix_gb * 1e9)
    thread = SchedulerThread(
        lambda: new_scheduler(
            model.runtime,
            parallel=settings.parallel,
            waiting=settings.queue,
            prefix_bytes=prefixes,
        )
    )
    return Desk(model, thread, thread.start())


def serve(
    settings: Settings, load: Callable[[], Qwen3], ready: Callable[[str, Qwen3], object]
) -> None:
    """Serve until SIGTERM or Ctrl-C; `ready` is told the address. Raises `Qwen3Error`."""
    import uvicorn

    rules = settings.rules()
    listener = bind(settings.host, settings.port)
    try:
        model = load()
        desk = start(model, settings)
        port = listener.getsockname()[1]
        shown = f"[{settings.host}]" if ":" in settings.host else settings.host

        class Server(uvicorn.Server):
            """uvicorn's, which tells when it listens, and lets running turns end."""

            async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                await super().startup(sockets)
                ready(f"http://{shown}:{port}", model)

            async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
                draining = asyncio.create_task(drain(desk, settings.drain_seconds))
                await super().shutdown(sockets)
                draining.cancel()

        config = uvicorn.Config(
            build(desk, rules, settings.strict),
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=int(settings.drain_seconds) + 5,
            lifespan="off",
        )
        with _quiet_sigterm():
            Server(config).run(sockets=[listener])
        desk.thread.close(0.0)
    finally:
        listener.close()


async def drain(desk: Desk, seconds: float) -> None:
    """Take nothing new, and interrupt what has not ended after `seconds`."""
    desk.draining = True
    await asyncio.sleep(seconds)
    desk.scheduler.stop_all()


@contextmanager
def _quiet_sigterm() -> Iterator[None]:
    """SIGTERM ends the server with exit code 0: uvicorn raises it again when it is done."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
