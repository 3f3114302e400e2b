"""The hidden state at the end of many token sequences, computed together.

Shorter sequences are filled up on the right. A token sees only what stands before it, so what is
filled in changes nothing, and needs no mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx

from qwen3_mlx.errors import ContextError
from qwen3_mlx.nn.transformer import Qwen3Network

CHUNK = 2048
"""Tokens of one forward pass, all sequences of a batch together. Longer sequences go alone, in
chunks behind one another, which bounds the memory."""

Ids = list[int]
Progress = Callable[[int, int], object]
"""Called with sequences done, and sequences in all."""


def fitted(before: Ids, text: Ids, after: Ids, context: int, what: str, *, truncate: bool) -> Ids:
    """``before + text + after``, the text cut at its end if `truncate` allows and it must be.

    Raises `ContextError` for `what` where it is too long.
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
    """The states ``[N, C]`` behind the last norm at the last token of each, in float32, in order.

    No sequence may be empty.
    """
    states: dict[int, mx.array] = {}
    for batch in batch_states(network, sequences):
        states |= batch
        if on_progress is not None:
            on_progress(len(states), len(sequences))
    return in_order(network, states)


def batch_states(network: Qwen3Network, sequences: Sequence[Ids]) -> Iterator[dict[int, mx.array]]:
    """The states of one batch after the other: each ``[C]``, by its sequence's number."""
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
    """Which sequences go together: neighbours in length, at most `CHUNK` tokens filled up."""
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
