"""The token counts of a turn, exact to the token id."""

from __future__ import annotations

from dataclasses import dataclass

from qwen3_mlx.chat.turns import Turn


@dataclass(frozen=True, slots=True)
class Usage:
    """A turn's tokens. `output`: generated and injected ids, the end's and stop text's too."""

    prompt: int
    cached: int
    output: int
    thinking: int

    @classmethod
    def of(cls, turn: Turn) -> Usage:
        """The counts of `turn` so far."""
        cached = turn.cached_tokens
        return cls(len(turn.request.prompt), cached, turn.used_tokens, turn.thinking_tokens)
