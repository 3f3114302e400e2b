"""The one place where an error becomes an exit code.

0 success, 1 an error that the user can act on, 2 wrong usage (typer's own), 130 Ctrl-C,
141 stdout's reader went away.
"""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from qwen3_mlx.cli import options as opt
from qwen3_mlx.cli.terminal.screen import Screen, printable
from qwen3_mlx.errors import Qwen3Error

USER_ERROR, CTRL_C, PIPE_CLOSED = 1, 130, 141


class Guard(TyperGroup):
    """Runs a command and turns what it raises into a message and an exit code."""

    def make_context(self, *args: Any, **named: Any) -> Any:
        """The context of a command line; raises typer's usage errors, fit for a terminal."""
        try:
            return super().make_context(*args, **named)
        except Exception as error:
            _make_printable(error)
            raise

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
                _make_printable(error)
                raise
            if ctx.meta.get(opt.DEBUG_KEY):
                Screen().trace(error)
            Screen().error(error)
            raise typer.Exit(USER_ERROR) from None


def _make_printable(error: Exception) -> None:
    """A usage error quotes what was typed, or pasted from somewhere."""
    if isinstance(message := getattr(error, "message", None), str):
        error.message = printable(message)  # type: ignore[attr-defined]  # it has one


def _is_typers(error: Exception) -> bool:
    """Usage errors and exits, which typer reports itself (by version under either name)."""
    return type(error).__module__.partition(".")[0] in ("typer", "click")
