"""Maps errors to exit codes.

0 success, 1 an error that the user can fix, 2 wrong usage (by typer), 130 Ctrl-C, 141 stdout's
reader is gone.
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
    """Runs a command and turns its exceptions into a message and an exit code."""

    def make_context(self, *args: Any, **named: Any) -> Any:
        """Parse the command line; raises typer's usage errors with a printable message.

        `--help` and `--version` print here, so an error of stdout comes from here too.
        """
        try:
            return super().make_context(*args, **named)
        except BrokenPipeError:
            raise typer.Exit(PIPE_CLOSED) from None
        except OSError as error:
            Screen().error(error)
            raise typer.Exit(USER_ERROR) from None
        except Exception as error:
            _make_printable(error)
            raise

    def invoke(self, ctx: Any) -> Any:
        """Run the command; raises `typer.Exit` for every error but usage errors."""
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
            if isinstance(error, Qwen3Error):
                _name_by_flag(error, self.commands.get(ctx.invoked_subcommand or ""))
            if ctx.meta.get(opt.DEBUG_KEY):
                Screen().trace(error)
            Screen().error(error)
            raise typer.Exit(USER_ERROR) from None


def _name_by_flag(error: Qwen3Error, command: Any) -> None:
    """Name the option of `command` that `error` is about as it is typed: ``--kv-bits``."""
    flags = {
        str(param.name).replace("_", "-"): max(param.opts, key=len)
        for param in getattr(command, "params", ())
        if any(name.startswith("--") for name in param.opts)
    }
    error.what = flags.get(error.what.replace("_", "-"), error.what)


def _make_printable(error: Exception) -> None:
    """Make a usage error's message printable: it quotes the arguments."""
    if isinstance(message := getattr(error, "message", None), str):
        error.message = printable(message)  # type: ignore[attr-defined]  # click's has one


def _is_typers(error: Exception) -> bool:
    """Whether typer reports the error itself; its module's name depends on the version."""
    return type(error).__module__.partition(".")[0] in ("typer", "click")
