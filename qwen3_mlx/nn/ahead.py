"""Compiles kernels ahead of use: while child processes prove them, or while weights are read."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

import qwen3_mlx.device.backend as backend

import mlx.core as mx

from qwen3_mlx.metal import dispatch, tuning, verdict
from qwen3_mlx.metal.compile_ahead import compile_ahead, settle
from qwen3_mlx.metal.launch import Launch
from qwen3_mlx.metal.variants import Signature, text_digest, variants
from qwen3_mlx.metal.verdict import Arm, Verdict
from qwen3_mlx.nn.fused_step import kernels_of
from qwen3_mlx.nn.signature import signatures
from qwen3_mlx.nn.transformer import Qwen3Network
from qwen3_mlx.options import AS_COMPUTED, CacheFormat

_THREAD = "compile ahead"


class Ahead:
    """Compiles what a trial will run in this process, while child processes prove the kernels.

    Only on CUDA, where compiling takes most of a proof's time. On Metal, a kernel that hangs in a
    child may take down what other processes compute. A text is launched only after a child found
    it right.
    """

    def __init__(
        self, pieces: Iterable[Callable[[], object]], signatures: Sequence[Signature]
    ) -> None:
        self.signatures, self.seconds = signatures, dict[str, float]()
        on = backend.device() == "cuda"
        self._pieces = iter(pieces if on else ())
        every = [launch for one in signatures for launch in variants(one)] if on else []
        every.sort(key=_waits)
        self._launches = {text_digest(launch): launch for launch in every}

    def __call__(self, right: Collection[str]) -> bool:
        """Do one piece of work; False if none is left. right: digests of texts found right."""
        begin = time.monotonic()
        known = next((text for text in self._launches if text in right), None)
        if known is not None:
            compile_ahead([self._launches.pop(known)])
            self._spent("meanwhile, kernels", begin)
            return True
        piece = next(self._pieces, None)
        if piece is not None:
            piece()
            self._spent("meanwhile, MLX's operations", begin)
        return piece is not None

    def _spent(self, what: str, begin: float) -> None:
        self.seconds[what] = round(self.seconds.get(what, 0.0) + time.monotonic() - begin, 1)


def _waits(launch: Launch) -> bool:
    """Whether no decode step needs it: kernels of prompts and of a few tokens."""
    normed = launch.constants.get("NORM") or launch.constants.get("RESIDUAL")
    return launch.kernel == "gather_matmul" or (launch.kernel in ("gate_up", "down") and not normed)


def begin(
    network: Qwen3Network, dtype: mx.Dtype, cache_format: CacheFormat = AS_COMPUTED
) -> threading.Thread | None:
    """Start a thread that compiles the kernels with which `network` will decode, by the verdict.

    dtype: that in which the weights will be read. Returns None if MLX's operations suffice.
    Raises `OptionError` if an environment variable names no kernel.
    """
    if dispatch.trusted() or dispatch.off_reason("attend"):
        return None
    found = [replace(one, dtype=dtype) for one in signatures(network, cache_format)]
    held = verdict.read(verdict.file_of(found)) if found else None
    if held is None or not (launches := _proven(network, cache_format, found, held)):
        return None
    settle(launches)
    main = threading.main_thread()  # Python waits for this thread, which stops once this one ended
    thread = threading.Thread(
        target=compile_ahead, args=(launches, lambda: not main.is_alive()), name=_THREAD
    )
    thread.start()
    return thread


def under_way() -> bool:
    """Whether a thread that `begin` started is still compiling."""
    return any(thread.name == _THREAD for thread in threading.enumerate())


def launches_of_arms(network: Qwen3Network, cache_format: CacheFormat) -> list[Launch]:
    """The launches of the arms that a trial would time, by the saved proof."""
    found = signatures(network, cache_format)
    held = verdict.read(verdict.file_of(found)) if found else None
    if held is None:
        return []
    arms: list[Arm] = [arm for arm in verdict.ARMS if arm != "stock"]
    launches = _of_arms(network, cache_format, found, held, set(arms))
    settle(launches)
    return launches


def _proven(
    network: Qwen3Network, cache_format: CacheFormat, found: list[Signature], held: Verdict
) -> list[Launch]:
    """The launches of the arms that `held` chose, the prompt's first; nothing is launched yet."""
    arms: set[Arm] = {arm for arm in held.arms() if arm != "stock"}
    arms = arms or ({"fused"} if dispatch.forced() else set())
    return _of_arms(network, cache_format, found, held, arms)


def _of_arms(
    network: Qwen3Network,
    cache_format: CacheFormat,
    found: list[Signature],
    held: Verdict,
    arms: set[Arm],
) -> list[Launch]:
    names = {name for arm in arms for name in kernels_of(arm, network, cache_format)}
    names |= {*dispatch.PROMPT} if names else set()
    able = {name for name in names if not held.fault(name) and not dispatch.off_reason(name)}
    if able & {"attend", "attend_packed"}:
        able |= {"attend", "rotation", "combine"}
    every = [one for signature in found for one in variants(signature) if one.kernel in able]
    with tuning.cut_by(held.cuts):
        cut = [one for signature in found for one in variants(signature) if one.kernel in held.cuts]
    every = list({text_digest(one): one for one in [*cut, *every] if one.kernel in able}.values())
    return sorted(every, key=lambda one: one.kernel != "gather_matmul")
