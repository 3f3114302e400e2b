"""Computes the last hidden states of many token sequences in batches.

Shorter sequences are padded on the right. Attention is causal, so the padding changes nothing and
needs no mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx

from qwen3_mlx.device.fork import about_to_compute
from qwen3_mlx.errors import ContextError
from qwen3_mlx.nn.transformer import Qwen3Network
from qwen3_mlx.options.callback import callback

CHUNK = 2048
"""Most tokens of one forward pass over a batch. A longer sequence runs alone in chunks of this
size, which bounds the memory."""

Ids = list[int]
Progress = Callable[[int, int], object]
"""Called with (sequences done, all sequences)."""


def fitted(before: Ids, text: Ids, after: Ids, context: int, what: str, *, truncate: bool) -> Ids:
    """``before + text + after``; with `truncate` a text that is too long loses its end.

    Raises `ContextError` for `what` if it is too long.
    """
    over = len(before) + len(text) + len(after) - context
    if over > 0 and not (truncate and over <= len(text)):
        hint = "truncate=True (--truncate) keeps its beginning" if over <= len(text) else None
        got, expected = f"{context + over} tokens", f"at most {context}"
        raise ContextError(f"{what} is too long", got=got, expected=expected, hint=hint)
    return [*before, *(text[:-over] if over > 0 else text), *after]


def last_states(
    network: Qwen3Network, sequences: Sequence[Ids], on_progress: Progress | None = None
) -> mx.array:
    """The hidden states ``[N, C]`` of each sequence's last token after the norm, float32.

    No sequence may be empty. Raises `BackendError` in a forked process, which would hang.
    """
    about_to_compute()
    tell = callback("on_progress", on_progress)
    states: dict[int, mx.array] = {}
    for batch in batch_states(network, sequences):
        states |= batch
        tell(len(states), len(sequences))
    return in_order(network, states)


def batch_states(network: Qwen3Network, sequences: Sequence[Ids]) -> Iterator[dict[int, mx.array]]:
    """The states of each batch in turn: ``[C]`` by the sequence's index."""
    for batch in batches([len(ids) for ids in sequences]):
        rows = _states(network, [sequences[i] for i in batch])
        mx.eval(rows)
        yield {i: rows[place] for place, i in enumerate(batch)}


def in_order(network: Qwen3Network, states: dict[int, mx.array]) -> mx.array:
    """The states of all sequences, ``[N, C]``."""
    width = network.model.norm.weight.size
    found = [states[i] for i in range(len(states))]
    return mx.stack(found) if found else mx.zeros((0, width), mx.float32)


def batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices of sequences by batch: of similar length, at most `CHUNK` tokens with padding."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and (len(batch) + 1) * lengths[i] > CHUNK:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _states(network: Qwen3Network, sequences: list[Ids]) -> mx.array:
    if len(sequences) == 1 and len(sequences[0]) > CHUNK:
        return _in_chunks(network, sequences[0])
    longest = max(map(len, sequences))
    tokens = mx.array([ids + [0] * (longest - len(ids)) for ids in sequences], mx.uint32)
    hidden = network.model(tokens)  # [B, L, C]
    ends = mx.array([len(ids) - 1 for ids in sequences])
    return hidden[mx.arange(len(sequences)), ends].astype(mx.float32)


def _in_chunks(network: Qwen3Network, ids: Ids) -> mx.array:
    cache = network.make_cache()
    for start in range(0, len(ids), CHUNK):
        tokens = mx.array([ids[start : start + CHUNK]], mx.uint32)
        hidden = network.model(tokens, cache)[:, -1]
        mx.eval(hidden, [layer.state for layer in cache])
    return hidden.astype(mx.float32)
