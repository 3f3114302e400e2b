"""The commands and their options, and the one place where an error becomes an exit code.

Exit codes: 0 success, 1 an error the user can act on, 2 wrong usage, 130 Ctrl-C, 141 stdout's
reader went away. What a command does is imported when it runs, so that ``--help`` is quick.
"""

from __future__ import annotations

import sys
import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from qwen3_mlx.cli import options as opt
from qwen3_mlx.cli.commands import (
    bench,
    chat,
    config,
    convert,
    doctor,
    generate,
    info,
    models,
    sessions,
)
from qwen3_mlx.cli.terminal.screen import Screen, prepare_streams, silence_stdout
from qwen3_mlx.errors import Qwen3Error

COMMANDS: tuple[Any, ...] = (
    chat,
    generate,
    info,
    models,
    convert,
    bench,
    doctor,
    sessions,
    config,
)
"""A module each, in the order of ``--help``. `command` is what typer runs, of the class `Command`
if the module has one; a module with commands of its own has a typer `app` instead."""
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
                traceback.print_exc()
            Screen().error(error)
            raise typer.Exit(USER_ERROR) from None


def _is_typers(error: Exception) -> bool:
    """Usage errors and exits, which typer reports itself (by version under either name)."""
    return type(error).__module__.partition(".")[0] in ("typer", "click")


app = typer.Typer(
    cls=Guard,
    name="qwen3-mlx",
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def run() -> int:
    """The whole program; returns the exit code, and leaves a stdout that closes quietly."""
    prepare_streams()
    try:
        code = typer.main.get_command(app)(prog_name="qwen3-mlx")
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    try:
        sys.stdout.flush()
    except OSError as error:  # a closed pipe, or a full disk behind a redirection
        silence_stdout()
        code = code or (PIPE_CLOSED if isinstance(error, BrokenPipeError) else USER_ERROR)
    return code


def _version(value: bool) -> None:
    if value:
        from qwen3_mlx import __version__

        typer.echo(f"qwen3-mlx {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool, opt.flag("--version", "Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Qwen3 on your own machine, with the thinking under your control.

    A MODEL is `demo` or `demo-moe` (small bundled demonstrations, offline), an alias such as `4b`,
    `8b`, `30b-a3b`, `4b-thinking-2507` or `coder-30b` (downloaded once, 4 bits a weight), a
    directory, or a hub repository `owner/name`.

    Start with `qwen3-mlx chat`; ask `qwen3-mlx info 8b` whether a model fits before downloading.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


for module in COMMANDS:
    name = module.__name__.rpartition(".")[2]
    if group := getattr(module, "app", None):
        app.add_typer(group, name=name)
    else:
        app.command(name, cls=getattr(module, "Command", None))(module.command)
