"""Keys and values in 8 or 4 bits: half or a quarter of the memory, and of what a token reads."""

from __future__ import annotations

import qwen3_mlx.device.backend as backend

import mlx.core as mx

from qwen3_mlx.nn.cache.full import KVCache
from qwen3_mlx.nn.evaluate import crowded, evaluate_now
from qwen3_mlx.nn.softmax_attention import attention

Packed = tuple[mx.array, mx.array, mx.array]
"""A matrix as `mx.quantize` gives it: packed integers, scales, biases, each ``[B, K, S, ·]``."""


class QuantizedCache(KVCache):
    """Every row of keys and of values packed in groups along the head, on its way in.

    A row never changes afterwards, so chunks and trims can't make a difference. Rows are packed
    behind RoPE, each with its own constants, which costs keys' few large channels little.
    """

    parts = tuple(f"{a}.{b}" for a in ("keys", "values") for b in ("w", "scales", "biases"))

    def __init__(self, bits: int, group: int, limit: int | None = None) -> None:
        super().__init__(limit)
        self.bits, self.group = bits, group
        self.packed: tuple[Packed, Packed] | None = None
        """Keys and values."""

    def attend(self, q: mx.array, k: mx.array, v: mx.array, scale: float) -> mx.array:
        """As `KVCache.attend`. One query multiplies the packed rows as they are."""
        self.append(k, v)
        if q.shape[2] > 1:
            if crowded(q.shape[2]):
                evaluate_now(q)  # the last layer's unpacked rows are free before this one's
            return attention(q, self.rows, self.offset, scale)
        # CUDA's kernels take only matrices that lie together, so there the unused rows come along.
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
        """Rows that the buffers have."""
        return self.packed[0][0].shape[2] if self.packed is not None else 0

    def append(self, keys: mx.array, values: mx.array) -> None:
        """Pack ``[B, K, L, D]`` each and append them."""
        start, self.offset = self.offset, self.offset + keys.shape[2]
        held_keys, held_values = self.packed or (None, None)
        self.packed = (
            self._append(held_keys, keys, start),
            self._append(held_values, values, start),
        )

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """As `KVCache.update_and_fetch`; what comes back has been rounded."""
        self.append(keys, values)
        return self.rows(0, self.offset)

    def rows(self, a: int, b: int) -> tuple[mx.array, mx.array]:
        """Keys and values of the tokens from a to b, unpacked: ``[B, K, b - a, D]``."""
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
        """As `KVCache.stored`."""
        return dict(zip(self.parts, (b[..., :count, :] for b in self.state), strict=False))

    def restore(self, arrays: dict[str, mx.array], count: int) -> None:
        """As `KVCache.restore`."""
        w, scales, biases, *values = (arrays[name] for name in self.parts)
        self.packed, self.offset = ((w, scales, biases), (values[0], values[1], values[2])), count

    @property
    def state(self) -> list[mx.array]:
        """As `KVCache.state`."""
        return [buffer for packed in self.packed or () for buffer in packed]

    @property
    def layout(self) -> tuple[int, int, mx.Dtype]:
        """As `KVCache.layout`."""
        words, scales = self.state[:2]
        return words.shape[1], words.shape[3] * 32 // self.bits, scales.dtype

    @property
    def kind(self) -> str:
        """As `KVCache.kind`."""
        return f"{self.bits} bits"


def _cut(packed: Packed, a: int, b: int) -> Packed:
    w, scales, biases = packed
    if b - a == w.shape[2]:
        return packed
    return w[..., a:b, :], scales[..., a:b, :], biases[..., a:b, :]
