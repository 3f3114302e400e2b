"""The key/value cache of one layer, as computed and without forgetting."""

from __future__ import annotations

import mlx.core as mx

from qwen3_mlx.device.buffer_sizes import BLOCK
from qwen3_mlx.nn.evaluate import evaluate_grown
from qwen3_mlx.nn.softmax_attention import attention


class KVCache:
    """Keys and values of one layer, ``[B, K, S, D]``; tokens are appended and trimmed at the end.

    A full buffer doubles, from one block up to the context length: a row is copied at most once
    per doubling, and the buffer never exceeds the context's whole blocks. The method names are
    mlx-lm's, so that its tools accept this cache.
    """

    parts: tuple[str, ...] = ("keys", "values")
    """The names of the arrays that `stored` returns."""

    step = BLOCK
    """Buffers have a multiple of this many positions."""

    def __init__(self, limit: int | None = None) -> None:
        self.keys: mx.array | None = None
        self.values: mx.array | None = None
        self.limit = limit
        """The context length in tokens; None if it is unknown."""
        self.offset = 0

    def attend(self, q: mx.array, k: mx.array, v: mx.array, scale: float) -> mx.array:
        """Append ``k, v [B, K, L, D]``; return the attention of ``q [B, H, L, D]`` to all rows."""
        keys, values = self.update_and_fetch(k, v)

        def fetch(a: int, b: int) -> tuple[mx.array, mx.array]:
            return keys[..., a:b, :], values[..., a:b, :]

        return attention(q, fetch, keys.shape[2], scale)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Append ``[B, K, L, D]`` each and return all keys and values, ``[B, K, S, D]``."""
        self.append(keys, values)
        assert self.keys is not None and self.values is not None
        return self.keys[..., : self.offset, :], self.values[..., : self.offset, :]

    def append(self, keys: mx.array, values: mx.array) -> None:
        """Append keys and values ``[B, K, L, D]``."""
        start, self.offset = self.offset, self.offset + keys.shape[2]
        self.keys = self.write(self.keys, keys, start)
        self.values = self.write(self.values, values, start)

    def write(self, buffer: mx.array | None, new: mx.array, start: int) -> mx.array:
        """Write `new` into `buffer` from row `start` on; returns a larger buffer if needed."""
        capacity = 0 if buffer is None else buffer.shape[2]
        end = start + new.shape[2]
        if end > capacity:
            batch, heads, _, width = new.shape
            wanted = max(end, 2 * capacity)
            if self.limit is not None and end <= self.limit:
                wanted = min(wanted, self.limit)
            rows = self._blocks(wanted) - start
            blank = mx.zeros((batch, heads, rows, width), new.dtype)
            kept = [] if buffer is None else [buffer[..., :start, :]]
            buffer = mx.concatenate([*kept, blank], axis=2)
            if kept:  # frees the smaller buffer before attention allocates
                evaluate_grown(buffer)
        assert buffer is not None
        buffer[..., start:end, :] = new
        return buffer

    def even_capacity(self) -> int:
        """The capacity to which `reserve` may round the buffers up: two blocks, doubled as often
        as needed, but not beyond the context.

        A step of several sequences is traced anew for each combination of capacities, so few of
        them should differ.
        """
        capacity = self.capacity
        doubled = max((self._blocks(capacity) // self.step - 1).bit_length(), 1)
        even: int = self.step * 2**doubled
        return even if self.limit is None else max(min(even, self._blocks(self.limit)), capacity)

    def reserve(self, capacity: int) -> None:
        """Copy the buffers into ones of `capacity` positions; the cache must not be empty."""
        assert self.keys is not None and self.values is not None
        self.keys, self.values = (self._longer(b, capacity) for b in (self.keys, self.values))

    def _blocks(self, positions: int) -> int:
        """`positions`, rounded up to whole blocks."""
        return -(-positions // self.step) * self.step

    def _longer(self, buffer: mx.array, capacity: int) -> mx.array:
        batch, heads, rows, width = buffer.shape
        blank = mx.zeros((batch, heads, capacity - rows, width), buffer.dtype)
        longer = mx.concatenate([buffer, blank], axis=2)
        evaluate_grown(longer)
        return longer

    @property
    def capacity(self) -> int:
        """The number of positions in the buffers."""
        return 0 if self.keys is None else self.keys.shape[2]

    def grows(self, new: int) -> bool:
        """Whether a step of `new` tokens copies the buffers into larger ones."""
        return 0 < self.capacity < self.offset + new

    def reach(self, length: int) -> int:
        """How many of the first `length` tokens a trim can keep: here all that the cache has."""
        return min(length, self.offset)

    def trim(self, n: int) -> int:
        """Remove the last `n` tokens; returns how many were removed."""
        trimmed = min(max(n, 0), self.offset)
        self.offset -= trimmed
        return trimmed

    def mark(self) -> None:
        """Note that a later trim may return to this position; a no-op here."""

    def is_trimmable(self) -> bool:
        """Always True; mlx-lm asks this before it calls `trim`."""
        return True

    def stored(self, count: int) -> dict[str, mx.array]:
        """The arrays that `restore` needs for the first `count` tokens; empty if they are lost."""
        if self.keys is None or self.values is None:
            return {}
        return {"keys": self.keys[..., :count, :], "values": self.values[..., :count, :]}

    def restore(self, arrays: dict[str, mx.array], count: int) -> None:
        """Load the first `count` tokens from the arrays that `stored` returned."""
        self.keys, self.values = arrays["keys"], arrays["values"]
        self.offset = count

    @property
    def state(self) -> list[mx.array]:
        """The buffers, for ``mx.eval``; empty before the first token."""
        return [] if self.keys is None or self.values is None else [self.keys, self.values]

    @property
    def layout(self) -> tuple[int, int, mx.Dtype]:
        """Heads, elements per head, and their dtype; raises `IndexError` if the cache is empty."""
        keys = self.state[0]
        return keys.shape[1], keys.shape[3], keys.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers, their unused rows included."""
        return sum(buffer.nbytes for buffer in self.state)

    @property
    def kind(self) -> str:
        """The storage format, in words."""
        return "as computed"
