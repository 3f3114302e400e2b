"""The thinking budget: the most tokens of thinking in a turn, and the text that ends thinking."""

from __future__ import annotations

from dataclasses import dataclass, replace

from qwen3_mlx.errors import OptionError

STOP_TEXT = (
    "\n\nConsidering the limited time by the user, I have to give the solution"
    " based on the thinking directly now.\n</think>\n\n"
)
"""The text that ends thinking when the budget is used: Qwen's documentation, quickstart, "Thinking
Budget". (The technical report, arXiv 2505.09388 §4.3, prints a variant with a stray full stop.)"""

LEAST_ANSWER = 256
"""Tokens that `ThinkingBudget.within` reserves for the answer, unless a quarter of all is more."""


@dataclass(frozen=True, slots=True)
class ThinkingBudget:
    """The most tokens of thinking in a user turn, and the tokens that end the thinking then."""

    limit: int | None
    """The most tokens of thinking; None is no limit, 0 closes thinking as soon as it opens."""
    stop_ids: tuple[int, ...]
    """The tokens of the stop text, inserted when the budget is first used up."""
    close_ids: tuple[int, ...] = ()
    """The tokens that close thinking with budget 0 or opened again; empty: the stop text's."""

    def check(self, max_tokens: int, wanted: int) -> None:
        """Raise `OptionError` unless `max_tokens` exceeds the budget and the stop text.

        Where they are fewer than `wanted`, the context has no more, and raising them is no help.
        """
        if self.limit is None:
            return
        needed = self.limit + len(self.stop_ids)
        if max_tokens <= needed:
            what, got = "max_tokens", f"max_tokens {max_tokens}"
            hint = f"raise max_tokens above {needed}, or lower the budget"
            if max_tokens < wanted:
                what, got = "the context", f"{max_tokens} tokens left of it"
                hint = "lower the budget, shorten the prompt, or load with a larger context"
            raise OptionError(
                f"{what} leaves no room for an answer",
                got=f"{got} with a thinking budget of {self.limit}",
                expected=f"more than {needed}: budget + stop text ({len(self.stop_ids)} tokens)",
                hint=hint,
            )

    def within(self, max_tokens: int) -> ThinkingBudget:
        """This budget, lowered so that `LEAST_ANSWER` tokens or a quarter are left for the answer.

        If not even the stop text fits, the limit is None: no answer could follow the text anyway.
        """
        if not self.limit:
            return self
        answer = max(LEAST_ANSWER, max_tokens // 4, len(self.stop_ids) + 1)
        limit = min(self.limit, max(max_tokens - answer, 1))
        fits = limit + len(self.stop_ids) < max_tokens
        return replace(self, limit=limit if fits else None)
