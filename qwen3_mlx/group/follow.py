"""The following machines: they do what the first announces, and end when it ends."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx
from mlx.utils import tree_flatten

from qwen3_mlx.checkpoint.load import load_network
from qwen3_mlx.config.share import Share
from qwen3_mlx.device import memory_limits
from qwen3_mlx.engine.prefixes import copied
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.errors import BackendError, CheckpointError, ModelNotFoundError, Qwen3Error
from qwen3_mlx.group import measure, port, versions
from qwen3_mlx.group.ending import NOTICED_S, broken
from qwen3_mlx.group.lead import GATHER_S
from qwen3_mlx.group.line import Line, Message
from qwen3_mlx.group.plan import Plan, note_status
from qwen3_mlx.hub import resolve
from qwen3_mlx.nn.choose_backend import choose_backend
from qwen3_mlx.nn.parallel import sums_of
from qwen3_mlx.nn.transformer import Qwen3Network
from qwen3_mlx.options import CacheFormat


def load_share(
    path: Path, share: Share, context: int | None, cache_format: CacheFormat, force: bool = False
) -> Qwen3Network:
    """Load one machine's share of the network at `path`. Raises as `load_network`."""
    memory_limits.apply()
    network, _ = load_network(path, context=context, share=share, force=force)
    network.share_out(sums_of(share))
    if share.pipeline:
        one_dtype(network)
    choose_backend(network, cache_format)
    return network


def one_dtype(network: Qwen3Network) -> str:
    """The only float dtype of a network's weights, in which a pipeline sends hidden states.

    Raises `CheckpointError` if there are several.
    """
    weights: dict[str, mx.array] = dict(tree_flatten(network.parameters()))
    found = {str(w.dtype) for w in weights.values() if mx.issubdtype(w.dtype, mx.floating)}
    if len(found) > 1:
        got, hint = " and ".join(sorted(found)), "qwen3-mlx convert --dtype bfloat16 makes them one"
        raise CheckpointError("a pipeline takes one float type", got=got, hint=hint)
    return found.pop()


class Follower:
    """A machine of a group other than the first."""

    def __init__(self, plan: Plan, rank: int) -> None:
        self.plan, self.rank = plan, rank
        self.line = self._connect()
        self.network: Qwen3Network | None = None
        self.caches: dict[int, PromptCache] = {}
        self.format = CacheFormat()
        self._pending: tuple[int, mx.array] | None = None
        self._last_action = "nothing"

    def _connect(self) -> Line:
        """Connect to the first machine. Raises `BackendError`."""
        address, _, number = self.plan.control.rpartition(":")
        until = time.monotonic() + GATHER_S
        while True:
            try:
                connection = socket.create_connection((address, int(number)), timeout=5)
                break
            except OSError as error:
                if time.monotonic() > until:
                    what = f"{self.plan.name(0)} can't be reached at {self.plan.control}"
                    raise BackendError(what, got=str(error)) from None
                time.sleep(0.2)
        line = Line(connection, self.plan.secret)
        try:
            line.prove(welcome=False)
        except (OSError, BackendError) as error:
            line.close()
            if isinstance(error, BackendError):
                raise
            raise BackendError(f"{self.plan.name(0)} ended the connection") from None
        unheard = port.fault(self.plan, self.rank)
        line.send({"rank": self.rank, "versions": versions.own(), "fault": unheard})
        return line

    def run(self) -> None:
        """Follow until the first machine ends. Raises `BackendError` if it refuses this one."""
        self.line.start(self._lost)
        while True:
            try:
                message = self.line.receive(None if self._pending is None else 0.05)
            except TimeoutError:
                self._finish_pending()
                continue
            if message is None or message.get("do") == "end":
                self.line.close()
                return
            if "refused" in message:
                self.line.close()
                raise BackendError("this machine can't join", got=message["refused"])
            try:
                self._handle(message)
            except (Qwen3Error, RuntimeError, ValueError, KeyError) as error:
                if message.get("do") in ("load", "join", "measure"):
                    self.line.send({"error": str(error)})
                else:
                    self._tell_fault(error)

    def _lost(self, why: str) -> None:
        """End this process, after the connection to the first machine was lost."""
        broken(self.plan, 0, why, self._last_action)

    def _tell_fault(self, error: Exception) -> None:
        """Report a failed pass to the first machine, unless another machine's loss caused it.

        In that case the lost machine's line shows it to the first, which then ends all.
        """
        if str(error).startswith(f"[{self.plan.backend}]"):
            time.sleep(NOTICED_S)
        with suppress(OSError):
            self.line.send({"fault": f"{type(error).__name__}: {error}"})

    def _handle(self, message: Message) -> None:
        do = message["do"]
        self._last_action = str(do)
        if do == "forward":
            self._forward(message)
        elif do == "load":
            self.line.send(self._load(message))
        elif do == "join":
            note_status("joining")
            group = mx.distributed.init(strict=True, backend=self.plan.backend)
            mx.eval(mx.distributed.all_sum(mx.ones((1,)), group=group))
            self.line.last_heard = time.monotonic()
            note_status("joined")
            self.line.send({"joined": group.size()})
        elif do == "measure":
            measure.speeds(self.plan.backend, self.rank, self.plan.size)
            self.line.send({"measured": 1})
        elif do == "copy":
            assert self.network is not None
            source = self.caches[message["from"]]
            target = PromptCache(self.network, self.format)
            self.caches[message["to"]] = copied(source, message["count"], target)
        elif do == "drop":
            self.caches.pop(message["cache"], None)
        elif do == "mark":
            self.caches[message["cache"]].mark()

    def _load(self, message: Message) -> Message:
        self.network = self._pending = None
        self.caches.clear()
        mx.clear_cache()
        path = resolve.find_local(message["model"])
        if path is None or not (path / "config.json").is_file():
            hint = "fetch or copy it there first"
            raise ModelNotFoundError(f"{message['model']} is not on this machine", hint=hint)
        found = versions.digest(path)
        if found != message["digest"]:
            raise ModelNotFoundError(
                f"{message['model']} is another checkpoint here",
                got=found[:12],
                expected=message["digest"][:12],
                hint="have all machines hold the same files",
            )
        self.format = CacheFormat(*message["cache_format"])
        share, force = self.plan.share(self.rank), bool(message["force"])
        self.network = load_share(path, share, message["context"], self.format, force)
        return {"ready": 1, "dtype": one_dtype(self.network) if share.pipeline else ""}

    def _forward(self, message: Message) -> None:
        network = self.network
        assert network is not None
        caches = [self._cache_at(*place) for place in message["caches"]]
        if self.plan.pipeline:
            tokens = mx.zeros(message["tokens"], mx.uint32)  # hidden states come instead
        elif message["drawn"]:
            tokens = mx.distributed.all_sum(mx.zeros(message["tokens"], mx.uint32))
        else:
            tokens = mx.array(message["tokens"], mx.uint32)
        out = self._computed(network, tokens, caches)
        mx.async_eval(out)
        self._finish_pending()
        self._pending = (int(message["number"]), out)
        if tokens.shape[1] > 1:
            self._finish_pending()

    def _computed(
        self, network: Qwen3Network, tokens: mx.array, caches: list[PromptCache]
    ) -> mx.array:
        if len(caches) > 1:
            return network.model.rows(tokens, [c.layers for c in caches], [1] * len(caches))
        if not caches:
            return network.model(tokens)
        step, layers = caches[0].step, caches[0].layers
        if tokens.size == 1 and step is not None:
            return step(tokens, layers)
        return network.model(tokens, layers)

    def _finish_pending(self) -> None:
        """Wait for the pending pass, and report that it is done."""
        if self._pending is not None:
            number, out = self._pending
            mx.eval(out)
            self._pending = None
            self.line.send({"done": number})

    def _cache_at(self, number: int, offset: int) -> PromptCache:
        """The cache `number`, trimmed to `offset` tokens. Raises `BackendError` if it has fewer."""
        assert self.network is not None
        cache = self.caches.get(number)
        if cache is None:
            cache = self.caches[number] = PromptCache(self.network, self.format)
        for layer in cache.layers:
            layer.trim(layer.offset - offset)
        if cache.layers[0].offset != offset:
            raise BackendError("a cache is behind", got=cache.layers[0].offset, expected=offset)
        return cache


def follow(plan: Plan, rank: int) -> None:
    """Follow the first machine of `plan` until it ends. Raises `BackendError`."""
    Follower(plan, rank).run()
    os._exit(0)  # MLX's group may still wait for the others


def settings(cache_format: CacheFormat) -> list[Any]:
    """A cache's format as a list for a message."""
    return [cache_format.bits, cache_format.window, cache_format.sinks]
