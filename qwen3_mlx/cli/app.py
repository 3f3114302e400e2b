"""The command line's root: registers the commands and returns the exit code.

A command imports its libraries when it runs, which keeps ``--help`` fast.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from qwen3_mlx.cli import options as opt
from qwen3_mlx.cli.command import Command
from qwen3_mlx.cli.commands import (
    bench,
    chat,
    config,
    convert,
    doctor,
    embed,
    follow,
    generate,
    info,
    launch,
    models,
    rerank,
    serve,
    sessions,
)
from qwen3_mlx.cli.exit_codes import PIPE_CLOSED, USER_ERROR, Guard
from qwen3_mlx.cli.terminal.screen import prepare_streams, silence_stdout

COMMANDS: tuple[Any, ...] = (
    chat,
    generate,
    serve,
    info,
    models,
    embed,
    rerank,
    convert,
    bench,
    doctor,
    launch,
    follow,
    sessions,
    config,
)
"""The commands' modules, in the order of ``--help``. Typer runs a module's `command`, as a
`Command` if the module defines that class; a module with subcommands has a typer `app` instead."""


app = typer.Typer(
    cls=Guard,
    name="qwen3-mlx",
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def run() -> int:
    """Run the program and flush stdout; returns the exit code."""
    prepare_streams()
    try:
        code = typer.main.get_command(app)(prog_name="qwen3-mlx")
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        if isinstance(leaving.__context__, BrokenPipeError):  # rich, which draws --help, exits so
            code = PIPE_CLOSED
    except OSError:  # stderr can't be written either, so nobody can be told
        code = USER_ERROR
    try:
        sys.stdout.flush()
    except OSError as error:  # a closed pipe, or a redirection to a full disk
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

    A MODEL is `demo`, `demo-moe` or `demo-tools` (small bundled demonstrations, offline), an alias
    such as `4b`, `8b`, `30b-a3b`, `4b-thinking-2507` or `coder-30b` (downloaded once, 4 bits a
    weight), a directory, or a hub repository `owner/name`.

    Start with `qwen3-mlx chat`; ask `qwen3-mlx info 8b` whether a model fits before downloading.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


for module in COMMANDS:
    name = module.__name__.rpartition(".")[2]
    if group := getattr(module, "app", None):
        app.add_typer(group, name=name)
    else:
        settings = getattr(module, "CONTEXT", None)
        kind = getattr(module, "Command", Command)
        app.command(name, cls=kind, context_settings=settings)(module.command)
