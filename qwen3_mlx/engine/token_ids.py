"""Token ids, checked before MLX sees them.

It checks no index: one too large reads, or writes, memory that isn't the array's.
"""

from __future__ import annotations

from collections.abc import Collection

from qwen3_mlx.errors import OptionError, shown


def check_token_ids(ids: Collection[int], rows: int) -> None:
    """Raise `OptionError` unless `ids` are numbers of a vocabulary of `rows`."""
    # The quick way first: a prompt may have a hundred thousand.
    if set(map(type, ids)) - {int} or (ids and not 0 <= min(ids) <= max(ids) < rows):
        wrong = next(id for id in ids if type(id) is not int or not 0 <= id < rows)
        hint = "the tokenizer's files and the weights are not of one model"
        expected = f"whole numbers from 0 to {rows - 1}"
        raise OptionError("token id", got=shown(wrong), expected=expected, hint=hint)
