"""What a turn says to do behind each of its tokens."""

from __future__ import annotations

from dataclasses import dataclass

from qwen3_mlx.events import FinishReason


@dataclass(frozen=True, slots=True)
class GoOn:
    """Generate the next token."""


@dataclass(frozen=True, slots=True)
class Inject:
    """Append `ids` as if the model had generated them, and never draw `forbidden` again.

    `generated`: they are the model's own, of which there was no other choice.
    """

    ids: tuple[int, ...]
    forbidden: int | None = None
    generated: bool = False
    probed: bool = False
    """The probe before has computed them already."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Probe: what would the model answer if `ids` came next?"""

    ids: tuple[int, ...]
    """What ends the thought, or stands for it."""
    slot_ids: tuple[int, ...]
    tool: int | None = None
    """The id that would begin a tool call instead."""


@dataclass(frozen=True, slots=True)
class End:
    """The turn is over."""

    reason: FinishReason


Decision = GoOn | Inject | Ask | End
