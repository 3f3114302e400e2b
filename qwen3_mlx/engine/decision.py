"""The decisions that a turn's state machine makes after each token."""

from __future__ import annotations

from dataclasses import dataclass

from qwen3_mlx.events import FinishReason


@dataclass(frozen=True, slots=True)
class GoOn:
    """Generate the next token."""


@dataclass(frozen=True, slots=True)
class Inject:
    """Append `ids` as if the model had generated them, and never draw `forbidden` again.

    generated: the ids count as the model's own, because a grammar allowed no others.
    """

    ids: tuple[int, ...]
    forbidden: int | None = None
    generated: bool = False
    probed: bool = False
    """Whether the preceding probe has already computed them."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Probe: what would the model answer if `ids` came next?"""

    ids: tuple[int, ...]
    """The ids that end the thought, or replace it."""
    slot_ids: tuple[int, ...]
    tool: int | None = None
    """The id that would begin a tool call instead of an answer."""


@dataclass(frozen=True, slots=True)
class End:
    """The turn is over, for this reason."""

    reason: FinishReason


Decision = GoOn | Inject | Ask | End
