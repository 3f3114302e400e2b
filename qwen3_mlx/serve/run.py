"""Runs the server: binds the port, loads the model, serves requests until a signal ends it."""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from qwen3_mlx.chat.prompt_store import PromptStore
from qwen3_mlx.chat.turns import new_scheduler
from qwen3_mlx.engine.scheduler_thread import SchedulerThread
from qwen3_mlx.errors import OptionError
from qwen3_mlx.fit.machine import this_machine
from qwen3_mlx.model import Qwen3
from qwen3_mlx.serve.app import build
from qwen3_mlx.serve.connection import IDLE_SECONDS, timed_protocol
from qwen3_mlx.serve.desk import Desk
from qwen3_mlx.serve.guard import Guard
from qwen3_mlx.serve.kept_prefixes import KeptPrefixes
from qwen3_mlx.serve.kernel_trial import KernelTrial
from qwen3_mlx.serve.settings import Settings

if TYPE_CHECKING:
    import uvicorn

MOST_KEPT = 20 * 10**9
"""Bytes of saved conversations on disk; beyond them the least recently used are deleted."""


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to the address. Raises `OptionError` if that fails, as for a used port."""
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
    """Start the scheduler for `model` in its own thread; returns the desk that feeds it."""
    free = this_machine().available_bytes
    prefixes = free // 4 if settings.prefix_gb is None else int(settings.prefix_gb * 1e9)
    limits: dict[str, Any] = {"parallel": settings.parallel, "waiting": settings.queue}
    thread = SchedulerThread(lambda: new_scheduler(model.runtime, prefix_bytes=prefixes, **limits))
    desk = Desk(model, thread, thread.start())
    if settings.prefix_folder is not None:
        desk.kept = KeptPrefixes(model.runtime, PromptStore(settings.prefix_folder, MOST_KEPT))
        desk.scheduler.prefixes.elsewhere = desk.kept.restore
    if model.kind == "chat":
        desk.kernels = KernelTrial(model.runtime, desk.scheduler, lambda: desk.draining)
        desk.scheduler.when_idle = desk.kernels.step
    return desk


def serve(
    settings: Settings, load: Callable[[], Qwen3], ready: Callable[[str, Qwen3], object]
) -> None:
    """Serve until SIGTERM or Ctrl-C; `ready` is called with the URL. Raises `Qwen3Error`.

    The port is bound before the model is loaded, so early clients wait. Raises
    `KeyboardInterrupt` after Ctrl-C, once running answers have ended.
    """
    rules = settings.rules()
    listener = bind(settings.host, settings.port)
    try:
        model = load()
        desk = start(model, settings)
        shown = f"[{settings.host}]" if ":" in settings.host else settings.host
        url = f"http://{shown}:{listener.getsockname()[1]}"
        app = build(desk, rules, settings.strict)
        server = new_server(app, desk, settings.drain_seconds, lambda: ready(url, model))
        try:
            with _ignored(signal.SIGTERM):
                server.run(sockets=[listener])
        finally:
            try:
                desk.keep_prefixes()
            finally:
                with _ignored(signal.SIGINT):
                    desk.close()
    finally:
        listener.close()


def new_server(
    app: Guard, desk: Desk, drain_seconds: float, ready: Callable[[], object]
) -> uvicorn.Server:
    """A uvicorn server that calls `ready` once it listens, and drains turns before it ends."""
    import uvicorn

    class Server(uvicorn.Server):
        """uvicorn's server, extended at startup and shutdown."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready()

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            draining = asyncio.create_task(drain(desk, drain_seconds))
            try:
                await super().shutdown(sockets)
            finally:
                draining.cancel()

    config = uvicorn.Config(
        app,
        http=timed_protocol(),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=int(drain_seconds) + 5,
        lifespan="off",
    )
    return Server(config)


async def drain(desk: Desk, seconds: float) -> None:
    """Refuse new requests, and interrupt the turns that still run after `seconds`."""
    desk.draining = True
    if desk.busy:
        logging.getLogger(__name__).info("%d answers under way get %g s to end", desk.busy, seconds)
    await asyncio.sleep(seconds)
    desk.scheduler.stop_all()


@contextmanager
def _ignored(number: signal.Signals) -> Iterator[None]:
    """Ignore a signal within the block, unless another handler is installed there.

    SIGTERM must end the server with exit code 0, but uvicorn raises it again when it ends. A
    second Ctrl-C must not leave the scheduler's thread inside MLX while Python shuts down.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(number, before)
