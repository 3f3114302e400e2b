"""The thinking budget: how many tokens a turn may think, and the sentence that ends a thought."""

from __future__ import annotations

from dataclasses import dataclass, replace

from qwen3_mlx.errors import OptionError

STOP_TEXT = (
    "\n\nConsidering the limited time by the user, I have to give the solution"
    " based on the thinking directly now.\n</think>\n\n"
)
"""What ends a thought that has used its budget: Qwen's documentation, quickstart, "Thinking
Budget". (The technical report, arXiv 2505.09388 §4.3, prints a variant with a stray full stop.)"""

LEAST_ANSWER = 256
"""Tokens that a budget which may give way leaves for the answer, or a quarter of all."""


@dataclass(frozen=True, slots=True)
class ThinkingBudget:
    """How many tokens a user turn may think, and how the thought is ended when they are used."""

    limit: int | None
    """Tokens at most; None is no limit, 0 closes a thought as soon as it opens."""
    stop_ids: tuple[int, ...]
    """The stop text: it ends the first thought that has used the budget."""
    close_ids: tuple[int, ...] = ()
    """What closes a thought that nobody asked for, or that is opened again; else the stop text."""

    def check(self, max_tokens: int) -> None:
        """Raise `OptionError` unless an answer still fits behind budget and stop text."""
        if self.limit is None:
            return
        needed = self.limit + len(self.stop_ids)
        if max_tokens <= needed:
            raise OptionError(
                "max_tokens leaves no room for an answer",
                got=f"max_tokens {max_tokens} with a thinking budget of {self.limit}",
                expected=f"more than {needed}: budget + stop text ({len(self.stop_ids)} tokens)",
                hint=f"raise max_tokens above {needed}, or lower the budget",
            )

    def within(self, max_tokens: int) -> ThinkingBudget:
        """This budget, lowered where the answer would have less than `LEAST_ANSWER` or a quarter.

        Where not even the stop text fits there is no limit: nothing would come behind it.
        """
        if not self.limit:
            return self
        answer = max(LEAST_ANSWER, max_tokens // 4, len(self.stop_ids) + 1)
        limit = min(self.limit, max(max_tokens - answer, 1))
        fits = limit + len(self.stop_ids) < max_tokens
        return replace(self, limit=limit if fits else None)
