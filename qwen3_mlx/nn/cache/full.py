"""The key/value cache: what attention remembers of the tokens so far."""

from __future__ import annotations

import mlx.core as mx

from qwen3_mlx.device.buffer_sizes import BLOCK
from qwen3_mlx.nn.evaluate import evaluate_now
from qwen3_mlx.nn.softmax_attention import attention


class KVCache:
    """Keys and values of one layer, ``[B, K, S, D]``, appended to and trimmed from the end.

    The buffers double when they are full, from one block up to the context: a row is copied no
    more than once per doubling, and never more is held than the context needs. The method names
    are mlx-lm's, so that its tools accept this cache.
    """

    parts: tuple[str, ...] = ("keys", "values")
    """What `stored` gives, by name."""

    step = BLOCK
    """Positions that buffers are rounded up to."""

    def __init__(self, limit: int | None = None) -> None:
        self.keys: mx.array | None = None
        self.values: mx.array | None = None
        self.limit = limit
        """Tokens the context has, if that is known."""
        self.offset = 0

    def attend(self, q: mx.array, k: mx.array, v: mx.array, scale: float) -> mx.array:
        """Append ``k, v [B, K, L, D]``; let ``q [B, H, L, D]`` look back on all there is."""
        keys, values = self.update_and_fetch(k, v)

        def fetch(a: int, b: int) -> tuple[mx.array, mx.array]:
            return keys[..., a:b, :], values[..., a:b, :]

        return attention(q, fetch, keys.shape[2], scale)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Append ``[B, K, L, D]`` and return all that is held, ``[B, K, S, D]``."""
        self.append(keys, values)
        assert self.keys is not None and self.values is not None
        return self.keys[..., : self.offset, :], self.values[..., : self.offset, :]

    def append(self, keys: mx.array, values: mx.array) -> None:
        """Append ``[B, K, L, D]``."""
        start, self.offset = self.offset, self.offset + keys.shape[2]
        self.keys = self.write(self.keys, keys, start)
        self.values = self.write(self.values, values, start)

    def write(self, buffer: mx.array | None, new: mx.array, start: int) -> mx.array:
        """`buffer` with `new` in its rows from `start` on; a larger one if they don't fit."""
        capacity = 0 if buffer is None else buffer.shape[2]
        end = start + new.shape[2]
        if end > capacity:
            batch, heads, _, width = new.shape
            wanted = max(end, 2 * capacity)
            if self.limit is not None and end <= self.limit:
                wanted = min(wanted, self.limit)
            rows = -(-wanted // self.step) * self.step - start
            blank = mx.zeros((batch, heads, rows, width), new.dtype)
            kept = [] if buffer is None else [buffer[..., :start, :]]
            buffer = mx.concatenate([*kept, blank], axis=2)
            if kept:  # the smaller one is free before attention takes its memory
                evaluate_now(buffer)
        assert buffer is not None
        buffer[..., start:end, :] = new
        return buffer

    def reach(self, length: int) -> int:
        """How many of the first `length` tokens a trim can go back to: here all of them."""
        return min(length, self.offset)

    def trim(self, n: int) -> int:
        """Forget the last `n` tokens; returns how many were forgotten."""
        trimmed = min(max(n, 0), self.offset)
        self.offset -= trimmed
        return trimmed

    def mark(self) -> None:
        """Take note that a later trim may want to come back to here."""

    def is_trimmable(self) -> bool:
        """Whether `trim` works: always."""
        return True

    def stored(self, count: int) -> dict[str, mx.array]:
        """What must be kept to begin again behind the first `count` tokens; empty if it's gone."""
        if self.keys is None or self.values is None:
            return {}
        return {"keys": self.keys[..., :count, :], "values": self.values[..., :count, :]}

    def restore(self, arrays: dict[str, mx.array], count: int) -> None:
        """Begin again with what `stored` gave."""
        self.keys, self.values = arrays["keys"], arrays["values"]
        self.offset = count

    @property
    def state(self) -> list[mx.array]:
        """The buffers, for ``mx.eval``; empty before the first token."""
        return [] if self.keys is None or self.values is None else [self.keys, self.values]

    @property
    def layout(self) -> tuple[int, int, mx.Dtype]:
        """Heads, the elements of one, and their dtype, of a cache that isn't empty."""
        keys = self.state[0]
        return keys.shape[1], keys.shape[3], keys.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers, the unused end of the last block included."""
        return sum(buffer.nbytes for buffer in self.state)

    @property
    def kind(self) -> str:
        """How keys and values are kept, in words."""
        return "as computed"
