"""Greedy decoding of many prompts at once, for evaluation: exactness and throughput, no features.

Prompts are padded on the left. Rotary positions are relative and padding is masked, so a row's
results are those it would have alone, up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import mlx.core as mx

from qwen3_mlx.nn.attention import Attention
from qwen3_mlx.nn.transformer import Qwen3Network
from training.experts import feed_forward

_CHECK_EVERY = 16  # tokens between two looks at who has finished (each look waits for the device)
_SPARE = 128  # positions by which the key/value buffers grow


class _Rows:
    """Keys and values of the rows still being generated, padding in front."""

    def __init__(self, network: Qwen3Network, padding: mx.array) -> None:
        self.network = network
        self.padding = padding  # [B]
        self.length = 0
        self._kv: list[tuple[mx.array, mx.array] | None] = [None] * len(network.layers)

    def forward(self, tokens: mx.array) -> mx.array:
        """``tokens [B, L]`` -> logits of the last position ``[B, V]``; the buffers grow by L."""
        B, L = tokens.shape
        places = mx.arange(self.length + L)
        seen = places[None, :] <= (mx.arange(L) + self.length)[:, None]  # [L, S]
        mask = seen[None] & (places[None, None, :] >= self.padding[:, None, None])  # [B, L, S]
        mask = mask | (places[None, None, :] == (mx.arange(L) + self.length)[None, :, None])
        # One long row: of several, a CPU computes each alone, which takes three times as long
        x = self.network.model.embed_tokens(tokens.reshape(1, B * L))
        for index, layer in enumerate(self.network.layers):
            x = x + self._attend(index, layer.self_attn, layer.input_layernorm(x), mask)
            x = x + feed_forward(layer.mlp, layer.post_attention_layernorm(x))
        self.length += L
        return self.network.head(self.network.model.norm(x.reshape(B, L, -1)[:, -1]))

    def _attend(self, index: int, attention: Attention, x: mx.array, mask: mx.array) -> mx.array:
        """``x [1, B * L, C]`` to the like, with ``mask [B, L, S]``."""
        B, L, _ = mask.shape
        H, K, D = attention.heads, attention.kv_heads, attention.head_dim
        q = attention.q_norm(attention.q_proj(x).reshape(B, L, H, D)).transpose(0, 2, 1, 3)
        k = attention.k_norm(attention.k_proj(x).reshape(B, L, K, D)).transpose(0, 2, 1, 3)
        v = attention.v_proj(x).reshape(B, L, K, D).transpose(0, 2, 1, 3)
        q, k = attention.rope(q, self.length), attention.rope(k, self.length)
        k, v = self._append(index, k, v)  # [B, K, S, D]
        q = (q * attention.scale).reshape(B, K, H // K, L, D)
        scores = q @ k[:, :, None].swapaxes(-1, -2)  # [B, K, H/K, L, S]
        scores = mx.where(mask[:, None, None], scores.astype(mx.float32), -mx.inf)
        out = mx.softmax(scores, axis=-1).astype(v.dtype) @ v[:, :, None]
        out = out.reshape(B, H, L, D).transpose(0, 2, 1, 3).reshape(1, B * L, H * D)
        return attention.o_proj(out)

    def _append(self, index: int, k: mx.array, v: mx.array) -> tuple[mx.array, mx.array]:
        end = self.length + k.shape[2]
        held = self._kv[index]
        if held is None:
            held = (mx.zeros((*k.shape[:2], 0, k.shape[3]), k.dtype),) * 2
        if end > held[0].shape[2]:
            shape = (*k.shape[:2], end - held[0].shape[2] + _SPARE, k.shape[3])
            empty = mx.zeros(shape, k.dtype)
            held = (mx.concatenate([held[0], empty], 2), mx.concatenate([held[1], empty], 2))
        keys, values = held
        keys[:, :, self.length : end] = k
        values[:, :, self.length : end] = v
        self._kv[index] = (keys, values)
        return keys[:, :, :end], values[:, :, :end]

    def keep(self, rows: mx.array) -> None:
        """Drop all rows but these."""
        self.padding = self.padding[rows]
        self._kv = [(kv[0][rows], kv[1][rows]) if kv else None for kv in self._kv]


def greedy(
    network: Qwen3Network,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    stop: frozenset[int],
    at_once: int = 512,
) -> list[list[int]]:
    """The continuation of each prompt up to and including the first `stop` id.

    `at_once` rows are computed together, prompts of similar length beside each other.
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    results: list[list[int]] = [[] for _ in prompts]
    for first in range(0, len(order), at_once):
        chosen = order[first : first + at_once]
        mx.clear_cache()  # or a GPU fills up with the buffers of every size seen so far
        found = _generate(network, [prompts[i] for i in chosen], max_tokens, stop)
        for i, ids in zip(chosen, found, strict=True):
            results[i] = ids
    return results


def _generate(
    network: Qwen3Network, prompts: list[Sequence[int]], max_tokens: int, stop: frozenset[int]
) -> list[list[int]]:
    width = max(map(len, prompts))
    padded = mx.array([[0] * (width - len(ids)) + list(ids) for ids in prompts])
    rows = _Rows(network, mx.array([width - len(ids) for ids in prompts]))
    results: list[list[int]] = [[] for _ in prompts]
    alive = list(range(len(prompts)))
    token = mx.argmax(rows.forward(padded), axis=-1)
    pending: list[mx.array] = [token]
    for made in range(1, max_tokens + 1):
        if made % _CHECK_EVERY == 0 or made == max_tokens:
            columns = cast(list[list[int]], mx.stack(pending, axis=1).tolist())
            pending = []
            going = [r for r, ids in enumerate(columns) if _take(results[alive[r]], ids, stop)]
            if not going or made == max_tokens:
                break
            if len(going) < 0.7 * len(alive):
                index = mx.array(going)
                rows.keep(index)
                token, alive = token[index], [alive[r] for r in going]
        token = mx.argmax(rows.forward(token[:, None]), axis=-1)
        mx.async_eval(token)
        pending.append(token)
    return results


def _take(result: list[int], ids: list[int], stop: frozenset[int]) -> bool:
    """Append `ids` up to the first stop id; whether the row goes on."""
    if result and result[-1] in stop:
        return False
    for token in ids:
        result.append(token)
        if token in stop:
            return False
    return True
