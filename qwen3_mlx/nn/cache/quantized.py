"""Keys and values in 8 or 4 bits: half or a quarter of the memory, and of each token's reads."""

from __future__ import annotations

import qwen3_mlx.device.backend as backend

import mlx.core as mx

from qwen3_mlx.nn.cache.full import KVCache
from qwen3_mlx.nn.evaluate import crowded, evaluate_now
from qwen3_mlx.nn.softmax_attention import attention

Packed = tuple[mx.array, mx.array, mx.array]
"""A matrix from `mx.quantize`: packed integers, scales, biases, each ``[B, K, S, ·]``."""


class QuantizedCache(KVCache):
    """Packs each row of keys and values in groups along the head dimension when it is appended.

    A packed row never changes, so chunking and trimming don't affect results. Rows are packed
    after RoPE, each with its own scales and biases, so the few large channels of keys cost little.
    """

    parts = tuple(f"{a}.{b}" for a in ("keys", "values") for b in ("w", "scales", "biases"))

    def __init__(self, bits: int, group: int, limit: int | None = None) -> None:
        super().__init__(limit)
        self.bits, self.group = bits, group
        self.packed: tuple[Packed, Packed] | None = None
        """Keys and values; None before the first token."""

    def attend(self, q: mx.array, k: mx.array, v: mx.array, scale: float) -> mx.array:
        """As `KVCache.attend`. A single query is multiplied with the packed rows directly."""
        self.append(k, v)
        if q.shape[2] > 1:
            if crowded(q.shape[2]):
                evaluate_now(q)  # frees the previous layer's unpacked rows before this layer's
            return attention(q, self.rows, self.offset, scale)
        # CUDA's kernels need contiguous matrices, so on CUDA the unused rows are multiplied too.
        rows = self.capacity if backend.device() == "cuda" else self.offset
        keys, values = self._held(0, rows)
        B, H, _, D = q.shape
        q = (q * scale).reshape(B, k.shape[1], -1, D)  # [B, K, H / K, D]
        scores = self._times(q, keys, transpose=True)  # [B, K, H / K, S]
        if rows > self.offset:
            scores = mx.where(mx.arange(rows) < self.offset, scores, -mx.inf)
        weights = mx.softmax(scores, axis=-1, precise=True)
        return self._times(weights, values, transpose=False).reshape(B, H, 1, D)

    @property
    def capacity(self) -> int:
        """The number of rows in the buffers."""
        return self.packed[0][0].shape[2] if self.packed is not None else 0

    def reserve(self, capacity: int) -> None:
        """As `KVCache.reserve`."""
        assert self.packed is not None
        keys, values = (tuple(self._longer(b, capacity) for b in packed) for packed in self.packed)
        self.packed = (keys[0], keys[1], keys[2]), (values[0], values[1], values[2])

    def append(self, keys: mx.array, values: mx.array) -> None:
        """Pack ``[B, K, L, D]`` each and append them."""
        start, self.offset = self.offset, self.offset + keys.shape[2]
        held_keys, held_values = self.packed or (None, None)
        self.packed = (
            self._append(held_keys, keys, start),
            self._append(held_values, values, start),
        )

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """As `KVCache.update_and_fetch`; the returned rows are rounded by packing."""
        self.append(keys, values)
        return self.rows(0, self.offset)

    def rows(self, a: int, b: int) -> tuple[mx.array, mx.array]:
        """Keys and values of tokens a to b, unpacked: ``[B, K, b - a, D]`` each."""
        keys, values = self._held(a, b)
        return self._unpack(keys), self._unpack(values)

    def _held(self, a: int, b: int) -> tuple[Packed, Packed]:
        assert self.packed is not None
        return _cut(self.packed[0], a, b), _cut(self.packed[1], a, b)

    def _append(self, held: Packed | None, rows: mx.array, start: int) -> Packed:
        w, scales, biases = mx.quantize(rows, self.group, self.bits)
        old = held or (None, None, None)
        return (
            self.write(old[0], w, start),
            self.write(old[1], scales, start),
            self.write(old[2], biases, start),
        )

    def _unpack(self, packed: Packed) -> mx.array:
        w, scales, biases = packed
        return mx.dequantize(w, scales, biases, self.group, self.bits)

    def _times(self, x: mx.array, packed: Packed, transpose: bool) -> mx.array:
        w, scales, biases = packed
        return mx.quantized_matmul(x, w, scales, biases, transpose, self.group, self.bits)

    def stored(self, count: int) -> dict[str, mx.array]:
        """The packed arrays of the first `count` tokens; empty if the cache is empty."""
        return dict(zip(self.parts, (b[..., :count, :] for b in self.state), strict=False))

    def restore(self, arrays: dict[str, mx.array], count: int) -> None:
        """Load the first `count` tokens from the packed arrays that `stored` returned."""
        w, scales, biases, *values = (arrays[name] for name in self.parts)
        self.packed, self.offset = ((w, scales, biases), (values[0], values[1], values[2])), count

    @property
    def state(self) -> list[mx.array]:
        """The buffers: w, scales, biases of the keys, then of the values; empty at first."""
        return [buffer for packed in self.packed or () for buffer in packed]

    @property
    def layout(self) -> tuple[int, int, mx.Dtype]:
        """Heads, elements per unpacked head, and their dtype; the cache must not be empty."""
        words, scales = self.state[:2]
        return words.shape[1], words.shape[3] * 32 // self.bits, scales.dtype

    @property
    def kind(self) -> str:
        """The storage format, in words: the bits."""
        return f"{self.bits} bits"


def _cut(packed: Packed, a: int, b: int) -> Packed:
    w, scales, biases = packed
    if b - a == w.shape[2]:
        return packed
    return w[..., a:b, :], scales[..., a:b, :], biases[..., a:b, :]
