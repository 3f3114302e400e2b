"""Checks token ids before they reach MLX.

MLX checks no index: one that is too large reads, or writes, memory outside the array.
"""

from __future__ import annotations

from collections.abc import Collection

from qwen3_mlx.errors import OptionError, shown


def check_token_ids(ids: Collection[int], rows: int) -> None:
    """Raise `OptionError` unless all `ids` are ints from 0 to ``rows - 1``, the vocabulary's."""
    # The fast check first: a prompt may have a hundred thousand ids.
    if set(map(type, ids)) - {int} or (ids and not 0 <= min(ids) <= max(ids) < rows):
        wrong = next(id for id in ids if type(id) is not int or not 0 <= id < rows)
        hint = "the tokenizer's files and the weights are not of one model"
        expected = f"whole numbers from 0 to {rows - 1}"
        raise OptionError("token id", got=shown(wrong), expected=expected, hint=hint)
