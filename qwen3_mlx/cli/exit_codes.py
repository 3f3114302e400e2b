"""The one place where an error becomes an exit code.

0 success, 1 an error that the user can act on, 2 wrong usage (typer's own), 130 Ctrl-C,
141 stdout's reader went away.
"""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from qwen3_mlx.cli import options as opt
from qwen3_mlx.cli.terminal.screen import Screen
from qwen3_mlx.errors import Qwen3Error

USER_ERROR, CTRL_C, PIPE_CLOSED = 1, 130, 141


class Guard(TyperGroup):
    """Runs a command and turns what it raises into a message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; raises `typer.Exit` in place of every error that isn't usage."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(CTRL_C) from None
        except BrokenPipeError:
            raise typer.Exit(PIPE_CLOSED) from None
        except Exception as error:
            if not isinstance(error, Qwen3Error) and _is_typers(error):
                raise
            if ctx.meta.get(opt.DEBUG_KEY):
                Screen().trace(error)
            Screen().error(error)
            raise typer.Exit(USER_ERROR) from None


def _is_typers(error: Exception) -> bool:
    """Usage errors and exits, which typer reports itself (by version under either name)."""
    return type(error).__module__.partition(".")[0] in ("typer", "click")
