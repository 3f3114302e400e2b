"""The key/value cache: what attention remembers of the tokens so far."""

from __future__ import annotations

import mlx.core as mx


class KVCache:
    """Keys and values of one layer, ``[B, K, S, D]``, grown in blocks and trimmed from the end.

    The method names are mlx-lm's, so that its tools accept this cache.
    """

    step = 256
    """Positions a block holds: a longer buffer is allocated once in so many tokens."""

    def __init__(self) -> None:
        self.keys: mx.array | None = None
        self.values: mx.array | None = None
        self.offset = 0

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Append ``[B, K, L, D]`` and return all that is held, ``[B, K, S, D]``."""
        start, self.offset = self.offset, self.offset + keys.shape[2]
        self.keys = self._write(self.keys, keys, start)
        self.values = self._write(self.values, values, start)
        return self.keys[..., : self.offset, :], self.values[..., : self.offset, :]

    def _write(self, buffer: mx.array | None, new: mx.array, start: int) -> mx.array:
        capacity = 0 if buffer is None else buffer.shape[2]
        end = start + new.shape[2]
        if end > capacity:
            batch, heads, _, dim = new.shape
            # Doubling bounds the copies; whole blocks bound the number of buffer sizes.
            wanted = max(end, min(2 * capacity, capacity + 16 * self.step))
            rows = -(-wanted // self.step) * self.step - start
            blank = mx.zeros((batch, heads, rows, dim), new.dtype)
            kept = [] if buffer is None else [buffer[..., :start, :]]
            buffer = mx.concatenate([*kept, blank], axis=2)
        assert buffer is not None
        buffer[..., start:end, :] = new
        return buffer

    def trim(self, n: int) -> int:
        """Forget the last `n` tokens; returns how many there were to forget."""
        trimmed = min(max(n, 0), self.offset)
        self.offset -= trimmed
        return trimmed

    def is_trimmable(self) -> bool:
        """Whether `trim` works: always."""
        return True

    @property
    def state(self) -> list[mx.array]:
        """The buffers, for ``mx.eval``; empty before the first token."""
        return [] if self.keys is None or self.values is None else [self.keys, self.values]

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers, the unused end of the last block included."""
        return sum(buffer.nbytes for buffer in self.state)


def trim_all(cache: list[KVCache], n: int) -> None:
    """Forget the last `n` tokens in every layer."""
    for layer in cache:
        layer.trim(n)
