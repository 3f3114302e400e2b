"""How many tokens a turn took, exact to the id."""

from __future__ import annotations

from dataclasses import dataclass

from qwen3_mlx.chat.turns import Turn


@dataclass(frozen=True, slots=True)
class Usage:
    """Counts of a turn: `output` has every generated id, the end's and the stop text's too."""

    prompt: int
    cached: int
    output: int
    thinking: int

    @classmethod
    def of(cls, turn: Turn) -> Usage:
        """The counts so far."""
        cached = turn.cached_tokens
        return cls(len(turn.request.prompt), cached, turn.used_tokens, turn.thinking_tokens)
