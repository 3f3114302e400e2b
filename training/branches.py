"""Continuations behind many places of the same texts: each text is read once, for all its places.

A thought is asked for its answer at every end of a sentence. Reading its beginning anew each time
took 84 s of processor time for 8 problems of the demo with 81 probes, this takes 34.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import qwen3_mlx.device.backend  # noqa: F401  (before mlx)

import mlx.core as mx

from qwen3_mlx.nn.attention import Attention
from qwen3_mlx.nn.transformer import Qwen3Network
from training.experts import feed_forward

_CHECK_EVERY = 4
"""Tokens between two looks at who has finished."""


class Place(NamedTuple):
    """Where a continuation begins: behind ``text[:at]``, with ``ids`` put in there."""

    text: int
    at: int
    """1 or more."""
    ids: tuple[int, ...]
    """1 or more, and as many in every place of a call."""


class Branch(NamedTuple):
    """A greedy continuation, up to and including what stops it."""

    ids: list[int]
    probabilities: list[float]
    entropy: float
    """Of the first token, in nats."""


class _Rows:
    """Rows that each see the beginning of a text, as far as their place, and what they wrote."""

    def __init__(self, network: Qwen3Network, begun: Sequence[tuple[mx.array, mx.array]],
                 of_text: mx.array, at: mx.array) -> None:  # fmt: skip
        """begun: a layer's keys and values of the texts ``[P, K, S, D]``, cut to what rows see."""
        self._network, self._at, self._own = network, at, 0
        self._begun = [(k[of_text], v[of_text]) for k, v in begun]
        self._kv = [(k[:, :, :0], v[:, :, :0]) for k, v in self._begun]

    def forward(self, tokens: mx.array) -> mx.array:
        """``tokens [B, L]`` -> logits of the last position ``[B, V]``."""
        L, S = tokens.shape[1], self._begun[0][0].shape[2]
        begun = mx.arange(S)[None] < self._at[:, None]  # [B, S]
        own = mx.arange(self._own + L)[None] <= (self._own + mx.arange(L))[:, None]  # [L, own]
        masks = begun[:, None, None, None], own[None, None, None]
        x = self._network.model.embed_tokens(tokens)
        for index, layer in enumerate(self._network.layers):
            x = x + self._attend(index, layer.self_attn, layer.input_layernorm(x), masks)
            x = x + feed_forward(layer.mlp, layer.post_attention_layernorm(x))
        self._own += L
        return self._network.head(self._network.model.norm(x[:, -1])).astype(mx.float32)

    def _attend(
        self, index: int, attention: Attention, x: mx.array, masks: tuple[mx.array, mx.array]
    ) -> mx.array:
        """As the network's, but the beginnings stay where they are: no step copies them."""
        q, k, v = _projected(attention, x, self._at + self._own)
        B, H, L, D = q.shape
        held = self._kv[index]
        self._kv[index] = (mx.concatenate([held[0], k], 2), mx.concatenate([held[1], v], 2))
        parts = (self._begun[index], self._kv[index])
        K = k.shape[1]
        q = (q * attention.scale).reshape(B, K, -1, D)  # a group's heads one below the other
        scores = mx.concatenate(
            [
                mx.where(
                    mask,
                    (q @ keys.swapaxes(-1, -2)).reshape(B, K, H // K, L, keys.shape[2]),
                    -mx.inf,
                )
                for (keys, _), mask in zip(parts, masks, strict=True)
            ],
            axis=-1,
        )
        weights = mx.split(mx.softmax(scores, axis=-1), [parts[0][0].shape[2]], axis=-1)
        of_begun, of_own = (
            some.reshape(B, K, H // K * L, -1) @ values
            for some, (_, values) in zip(weights, parts, strict=True)
        )
        return attention.o_proj(_flat((of_begun + of_own).reshape(B, H, L, D)))

    def keep(self, rows: mx.array) -> None:
        """Drop all rows but these."""
        self._at = self._at[rows]
        self._begun = [(k[rows], v[rows]) for k, v in self._begun]
        self._kv = [(k[rows], v[rows]) for k, v in self._kv]


def branches(
    network: Qwen3Network,
    texts: Sequence[Sequence[int]],
    places: Sequence[Place],
    limit: int,
    stop: frozenset[int],
    *,
    texts_at_once: int = 32,
    rows_at_once: int = 256,
) -> list[Branch]:
    """What `network` writes at each place, at most `limit` tokens."""
    order = sorted({place.text for place in places}, key=lambda i: len(texts[i]))
    own: dict[int, list[int]] = {text: [] for text in order}
    for index, place in enumerate(places):
        own[place.text].append(index)
    found: dict[int, Branch] = {}
    for first in range(0, len(order), texts_at_once):
        chosen = order[first : first + texts_at_once]
        begun = _read(network, [texts[i] for i in chosen])
        row_of = {text: row for row, text in enumerate(chosen)}
        wanted = sorted((i for text in chosen for i in own[text]), key=lambda i: places[i].at)
        for start in range(0, len(wanted), rows_at_once):
            some = wanted[start : start + rows_at_once]
            longest = places[some[-1]].at
            rows = _Rows(
                network,
                [(k[:, :, :longest], v[:, :, :longest]) for k, v in begun],
                mx.array([row_of[places[i].text] for i in some]),
                mx.array([places[i].at for i in some]),
            )
            written = _written(rows, [places[i].ids for i in some], limit, stop)
            found.update(zip(some, written, strict=True))
        mx.clear_cache()  # or buffers of every size seen so far are kept
    return [found[index] for index in range(len(places))]


def _read(network: Qwen3Network, texts: Sequence[Sequence[int]]) -> list[tuple[mx.array, mx.array]]:
    """The layers' keys and values ``[P, K, S, D]`` of texts from position 0, filled up behind."""
    width = max(map(len, texts))
    x = network.model.embed_tokens(mx.array([[*ids, *[0] * (width - len(ids))] for ids in texts]))
    found = []
    for layer in network.layers:
        attention = layer.self_attn
        q, k, v = _projected(attention, layer.input_layernorm(x), 0)
        out = mx.fast.scaled_dot_product_attention(q, k, v, scale=attention.scale, mask="causal")
        x = x + attention.o_proj(_flat(out))
        x = x + feed_forward(layer.mlp, layer.post_attention_layernorm(x))
        found.append((k, v))
    mx.eval(found)
    return found


def _projected(
    attention: Attention, x: mx.array, offset: int | mx.array
) -> tuple[mx.array, mx.array, mx.array]:
    """Queries ``[B, H, L, D]``, keys and values ``[B, K, L, D]``, rotated from `offset` on."""
    B, L, _ = x.shape
    H, K, D = attention.heads, attention.kv_heads, attention.head_dim
    q = attention.q_norm(attention.q_proj(x).reshape(B, L, H, D)).transpose(0, 2, 1, 3)
    k = attention.k_norm(attention.k_proj(x).reshape(B, L, K, D)).transpose(0, 2, 1, 3)
    v = attention.v_proj(x).reshape(B, L, K, D).transpose(0, 2, 1, 3)
    return attention.rope(q, offset), attention.rope(k, offset), v


def _flat(out: mx.array) -> mx.array:
    B, H, L, D = out.shape
    return out.transpose(0, 2, 1, 3).reshape(B, L, H * D)


def _written(
    rows: _Rows, ids: Sequence[tuple[int, ...]], limit: int, stop: frozenset[int]
) -> list[Branch]:
    made: list[tuple[list[int], list[float]]] = [([], []) for _ in ids]
    logits = rows.forward(mx.array([list(one) for one in ids]))
    logs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    entropies: Any = (-(mx.exp(logs) * logs).sum(-1)).tolist()
    going, pending = list(range(len(ids))), list[tuple[mx.array, mx.array]]()
    for count in range(1, limit + 1):
        token = mx.argmax(logits, axis=-1)
        sure = mx.exp(mx.max(logits, axis=-1) - mx.logsumexp(logits, axis=-1))
        pending.append((token, sure))
        if count % _CHECK_EVERY == 0 or count == limit:
            columns: Any = [
                mx.stack(list(one), axis=1).tolist() for one in zip(*pending, strict=True)
            ]
            pending = []
            left = [
                row
                for row, (some, chances) in enumerate(zip(*columns, strict=True))
                if _take(made[going[row]], some, chances, stop)
            ]
            if not left or count == limit:
                break
            if len(left) < len(going):
                index = mx.array(left)
                rows.keep(index)
                token, going = token[index], [going[row] for row in left]
        logits = rows.forward(token[:, None])
        mx.async_eval(logits)
    return [Branch(*one, entropy) for one, entropy in zip(made, entropies, strict=True)]


def _take(
    made: tuple[list[int], list[float]], ids: list[int], chances: list[float], stop: frozenset[int]
) -> bool:
    """Append `ids` up to the first stop id; whether the row goes on."""
    for token, chance in zip(ids, chances, strict=True):
        made[0].append(token)
        made[1].append(chance)
        if token in stop:
            return False
    return True
