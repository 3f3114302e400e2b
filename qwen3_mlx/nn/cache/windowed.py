"""A cache of bounded size: the first few tokens and the most recent ones (arXiv 2309.17453).

Positions alone decide what is forgotten. The query at position p sees the keys at positions below
`sinks` and those above ``p - window``, however the tokens are chunked: a mask enforces that, and
rows that no later query can see are dropped from time to time. Keys keep the rotation of their own
position. (StreamingLLM renumbers keys within the cache, to generate without end. Here no
conversation outgrows the context, so no position exceeds those of training.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import mlx.core as mx

from qwen3_mlx.nn.cache.full import KVCache
from qwen3_mlx.nn.softmax_attention import Window, attention

MARGIN = 32
"""Tokens kept beyond the window, so that a short trim finds its window complete: it removes a
look-ahead token, or the opening of a thought that the next prompt leaves out."""


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows from before a drop, which a trim to the mark restores."""

    keys: mx.array
    values: mx.array
    start: int
    offset: int


class RotatingCache(KVCache):
    """Buffers with the sinks in their first rows, then the tokens from `start` to `offset`.

    A trim to a position whose window is incomplete goes back to the last `mark`, for which the
    dropped rows are kept; the caller recomputes the tokens after it.
    """

    parts = ("keys", "values", "start")

    def __init__(self, window: int, sinks: int) -> None:
        super().__init__()
        self.window = Window(window, sinks)
        self.start = sinks
        """Position of the first row after the sinks."""
        self._marked = False
        self._before: _Rows | None = None

    def attend(self, q: mx.array, k: mx.array, v: mx.array, scale: float) -> mx.array:
        """As `KVCache.attend`, limited to the window."""
        self._make_room(k.shape[2])
        row = self.offset - self._gone
        self.keys = keys = self.write(self.keys, k, row)
        self.values = values = self.write(self.values, v, row)
        self.offset += k.shape[2]

        def fetch(a: int, b: int) -> tuple[mx.array, mx.array]:
            return keys[..., a:b, :], values[..., a:b, :]

        return attention(q, fetch, self.offset - self._gone, scale, self.window)

    @property
    def _gone(self) -> int:
        """Rows dropped so far: a token's row is its position minus this."""
        return self.start - self.window.sinks

    def _make_room(self, new: int) -> None:
        """Drop the rows before the window and its margin, if enough of them justify a copy."""
        held, slack = self.window.size + MARGIN, max(new, self.step)
        self.limit = self.window.sinks + held + slack + new
        keep = self.offset - held
        if self.keys is None or self.values is None or keep - self.start < slack:
            return
        if self._marked and self._before is None:
            self._before = _Rows(self.keys, self.values, self.start, self.offset)
        self.keys, self.values = (self._kept(b, keep) for b in (self.keys, self.values))
        self.start = keep

    def _kept(self, buffer: mx.array, start: int) -> mx.array:
        rows = buffer[..., start - self._gone : self.offset - self._gone, :]
        return mx.concatenate([buffer[..., : self.window.sinks, :], rows], axis=2)

    def grows(self, new: int) -> bool:
        """As `KVCache.grows`; dropping rows copies the buffers, too."""
        return 0 < self.capacity < self.offset - self._gone + new

    def reach(self, length: int) -> int:
        """`length` if its window is complete; else the last mark, or 0."""
        length = min(length, self.offset)
        if self._whole(self.start, length):
            return length
        before = self._before
        if before is None:
            return 0
        length = min(length, before.offset)
        return length if self._whole(before.start, length) else 0

    def _whole(self, start: int, length: int) -> bool:
        return start <= max(self.window.sinks, length - self.window.size + 1)

    def trim(self, n: int) -> int:
        """As `KVCache.trim`; removes more if the target's window is incomplete."""
        was, length = self.offset, self.reach(self.offset - min(max(n, 0), self.offset))
        before = self._before
        if before is not None:  # rows after `length` are no longer valid
            self._before = before = replace(before, offset=min(before.offset, length))
        if not self._whole(self.start, length):
            if before is None or not length:
                self.keys = self.values = self._before = None
                self.start = self.window.sinks
            else:
                self.keys, self.values, self.start = before.keys, before.values, before.start
        self.offset = length
        return was - length

    def mark(self) -> None:
        """Keep the rows that the next drop removes, so that a trim can return to this position."""
        self._marked, self._before = True, None

    def stored(self, count: int) -> dict[str, mx.array]:
        """As `KVCache.stored`, with `start`; empty if the window at `count` is incomplete."""
        if self.keys is None or self.values is None or not self._whole(self.start, count):
            return {}
        end = count - self._gone
        arrays = {"keys": self.keys[..., :end, :], "values": self.values[..., :end, :]}
        return arrays | {"start": mx.array([self.start], mx.uint32)}

    def restore(self, arrays: dict[str, mx.array], count: int) -> None:
        """As `KVCache.restore`, with `start`; clears the mark."""
        super().restore(arrays, count)
        self.start = int(arrays["start"].item())  # type: ignore[arg-type]  # complex, to mypy
        self._marked, self._before = False, None

    @property
    def state(self) -> list[mx.array]:
        """The buffers, and the rows kept for a mark."""
        before = self._before
        return super().state + ([before.keys, before.values] if before is not None else [])

    @property
    def kind(self) -> str:
        """The storage format, in words: the sizes of the window and the sinks."""
        return f"the last {self.window.size:,} tokens and the first {self.window.sinks}"
