"""Scores documents against a query as described in Qwen3-Reranker's card.

The score is the probability of "yes" if only "yes" and "no" are possible.
"""

from __future__ import annotations

from collections.abc import Sequence

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx

from qwen3_mlx.errors import ConfigError, OptionError
from qwen3_mlx.nn.transformer import Qwen3Network
from qwen3_mlx.options.plain_words import whole_characters
from qwen3_mlx.retrieval.batches import Ids, Progress, fitted, last_states
from qwen3_mlx.text import Tokenizer

INSTRUCT = "Given a web search query, retrieve relevant passages that answer the query"
BEFORE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and"
    ' the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n"
)
AFTER = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


def token_ids(
    tokenizer: Tokenizer,
    query: str,
    document: str,
    context: int,
    what: str = "the document",
    *,
    instruct: str | None = None,
    truncate: bool = False,
) -> Ids:
    """The ids of the question whether `document` answers `query`.

    Markers in query or document (``<|im_end|>``) are encoded as plain text, so no document can
    answer for the model. Raises `OptionError` unless all are texts, `ContextError` if too long.
    """
    for name, text in (("query", query), (what, document), ("instruct", instruct or "")):
        whole_characters(name, text)
    text = f"<Instruct>: {instruct or INSTRUCT}\n<Query>: {query}\n<Document>: {document}"
    before, after = tokenizer.encode(BEFORE), tokenizer.encode(AFTER)
    return fitted(before, tokenizer.encode_letters(text), after, context, what, truncate=truncate)


def scores(
    network: Qwen3Network,
    tokenizer: Tokenizer,
    sequences: Sequence[Ids],
    on_progress: Progress | None = None,
) -> list[float]:
    """A score from 0 to 1 for each sequence of `token_ids`."""
    if not sequences:
        return []
    return judged(network, tokenizer, last_states(network, sequences, on_progress))


def judged(network: Qwen3Network, tokenizer: Tokenizer, states: mx.array) -> list[float]:
    """The scores of the states ``[N, C]`` at the sequences' ends.

    Raises `OptionError` for a vocabulary that has no yes and no.
    """
    logits = network.head(states.astype(network.model.norm.weight.dtype)).astype(mx.float32)
    try:
        yes, no = (logits[:, tokenizer.token_id(word)] for word in ("yes", "no"))
    except ConfigError:  # such as the demos', which are no rerankers
        expected = "a reranker, such as rerank-0.6b"
        got = "a vocabulary without the tokens yes and no"
        raise OptionError("this model can't judge", got=got, expected=expected) from None
    found: list[float] = mx.sigmoid(yes - no).tolist()  # type: ignore[assignment]  # nested, to mypy
    return found
