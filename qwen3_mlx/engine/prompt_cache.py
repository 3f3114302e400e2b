"""The tokens a key/value cache holds, so that the next prompt pays for its new part only."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from qwen3_mlx.nn.fused import FusedStep
from qwen3_mlx.nn.transformer import Qwen3


class PromptCache:
    """A cache of one conversation and the ids it stands for.

    ``tokens`` lists only what is surely computed; layers may run ahead of it after an
    interruption, and are trimmed back before the next use. Who computes into it holds ``lock``:
    a turn, or the background, never both.
    """

    def __init__(self, network: Qwen3) -> None:
        self.step = FusedStep.of(network)
        """One token in few launches, where the kernels run; None takes the plain path."""
        self.layers: list[Any] = self.step.make_cache() if self.step else network.make_cache()
        self.tokens: list[int] = []
        self.lock = threading.Lock()

    def reuse(self, prompt: Sequence[int]) -> int:
        """Keep what the cache has in common with `prompt`; returns how many tokens that is.

        At least the last token of `prompt` is left to compute: its logits are wanted.
        """
        return self.keep(prompt[:-1])

    def keep(self, tokens: Sequence[int]) -> int:
        """Keep the longest common prefix with `tokens`, drop the rest; returns its length."""
        kept = 0
        for held, wanted in zip(self.tokens, tokens, strict=False):
            if held != wanted:
                break
            kept += 1
        self.truncate(kept)
        return kept

    def truncate(self, length: int) -> None:
        """Keep the first `length` tokens."""
        del self.tokens[length:]
        for layer in self.layers:
            layer.trim(layer.offset - length)

    def settle(self) -> None:
        """Forget what an interrupted step may have left beyond `tokens`."""
        self.truncate(len(self.tokens))

    @property
    def nbytes(self) -> int:
        """Bytes of all layers' buffers."""
        return sum(layer.nbytes for layer in self.layers)
