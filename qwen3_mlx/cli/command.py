"""The class of the commands: a path may begin with ``~``, however it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typer.core import TyperCommand

from qwen3_mlx.files import expanded


class Command(TyperCommand):
    """A command whose paths are expanded: a shell leaves ``--out=~/model`` as it is."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command with its paths expanded."""
        ctx.params.update({name: _expanded(value) for name, value in ctx.params.items()})
        return super().invoke(ctx)


def _expanded(value: object) -> object:
    if isinstance(value, list | tuple):
        return type(value)(map(_expanded, value))
    return expanded(value) if isinstance(value, Path) else value
