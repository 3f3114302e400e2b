"""Embeds texts as described in Qwen3-Embedding's card.

The vector is the normalised state at an end token appended to the text. Its first `dimensions`,
normalised again, are a vector too (MRL, arXiv 2205.13147). A query begins with its instruction; a
document has none.
"""

from __future__ import annotations

from collections.abc import Sequence

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx

from qwen3_mlx.errors import OptionError, shown
from qwen3_mlx.nn.transformer import Qwen3Network
from qwen3_mlx.options.plain_numbers import within
from qwen3_mlx.options.plain_words import whole_characters
from qwen3_mlx.retrieval.batches import Ids, Progress, fitted, last_states
from qwen3_mlx.text import Tokenizer

END = "<|endoftext|>"


def token_ids(
    tokenizer: Tokenizer,
    text: str,
    context: int,
    what: str = "the text",
    *,
    instruct: str | None = None,
    truncate: bool = False,
) -> Ids:
    """The ids of a text with its instruction and the end token.

    Raises `OptionError` unless both are texts, `ContextError` if the ids exceed `context`.
    """
    for name, given in ((what, text), ("instruct", instruct or "")):
        whole_characters(name, given)
    if instruct is not None:
        text = f"Instruct: {instruct}\nQuery:{text}"
    end = [tokenizer.token_id(END)]
    return fitted([], tokenizer.encode(text), end, context, what, truncate=truncate)


def check_dimensions(dimensions: int | None, width: int) -> int | None:
    """`dimensions` as an int; raises `OptionError` for those that the vectors don't have."""
    found: int | None = within(dimensions, 1, width, integer=True)
    if dimensions is not None and found is None:
        hint = "Qwen trained 32 and more"
        expected = f"a whole number, 1 to {width}"
        raise OptionError("dimensions", got=shown(dimensions), expected=expected, hint=hint)
    return found


def vectors(
    network: Qwen3Network,
    sequences: Sequence[Ids],
    dimensions: int | None = None,
    on_progress: Progress | None = None,
) -> mx.array:
    """The vectors ``[N, dimensions]``, float32, of norm 1."""
    return normalised(last_states(network, sequences, on_progress), dimensions)


def normalised(states: mx.array, dimensions: int | None = None) -> mx.array:
    """The first `dimensions` of the states ``[N, C]``, with every row divided by its norm."""
    states = states[:, :dimensions]
    lengths = mx.sqrt((states * states).sum(axis=-1, keepdims=True))
    found = states / mx.maximum(lengths, 1e-12)
    mx.eval(found)
    return found
