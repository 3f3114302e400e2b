"""Choosing a model and loading it, with a word on what takes time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from qwen3_mlx import hub
from qwen3_mlx.cli import state
from qwen3_mlx.cli.screen import ProgressLine, Screen

if TYPE_CHECKING:
    from qwen3_mlx.model import Qwen3

DEMO_NOTE = (
    "demo is a small demonstration bundled with qwen3-mlx (sums, sorting, small talk), not a real"
    " Qwen3; for one, run: qwen3-mlx chat 4b (2.3 GB), or see: qwen3-mlx info 8b"
)


def default_model() -> str:
    """The model of the last chat, else the bundled demo."""
    return state.last_model() or "demo"


def open_model(name: str, context: int | None, screen: Screen) -> Qwen3:
    """Load `name`, saying so if it must be downloaded first or takes long. Raises as `load`."""
    if hub.find_local(name) is None:
        screen.note(f"downloading {hub.parse(name).repo}; it is kept for the next time")
    progress = ProgressLine(screen, f"loading {name}")
    try:
        model = load_model(name, context, progress)
    finally:
        progress.clear()
    if model.note:
        screen.note(model.note)
    return model


def load_model(name: str, context: int | None, on_progress: Callable[[int, int], None]) -> Qwen3:
    """Load `name`; a download draws its own progress on stderr. Raises as `load`."""
    from qwen3_mlx.model import load  # brings MLX

    return load(name, context=context, on_progress=on_progress)
