"""Compilation ahead of use: while a proof's children run, while a network's weights are read."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence

import qwen3_mlx.device.backend as backend

from qwen3_mlx.metal.compile_ahead import compile_ahead
from qwen3_mlx.metal.variants import Signature, text_digest, variants


class Ahead:
    """Has what a trial will run compiled in its own process, while children prove the kernels.

    On CUDA alone, where that takes most of a proof's time: on Metal a kernel that hangs in a child
    may take down what other processes compute. A text is launched once a child found it right.
    """

    def __init__(
        self, pieces: Iterable[Callable[[], object]], signatures: Sequence[Signature]
    ) -> None:
        self.signatures, self.seconds = signatures, dict[str, float]()
        on = backend.device() == "cuda"
        self._pieces = iter(pieces if on else ())
        every = [launch for one in signatures for launch in variants(one)] if on else []
        self._launches = {text_digest(launch): launch for launch in every}

    def __call__(self, right: Collection[str]) -> bool:
        """Do one piece; returns whether there was one. right: digests of texts found right."""
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
