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
from qwen3_mlx.cli import turn_options
from qwen3_mlx.cli.commands import bench, config, doctor, models, sessions
from qwen3_mlx.cli.commands.convert import convert
from qwen3_mlx.cli.settings import completion
from qwen3_mlx.cli.terminal.screen import Screen, prepare_streams, silence_stdout
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
        program = typer.main.get_command(app)
        code = completion.answer(program) if completion.asked() else program(prog_name="qwen3-mlx")
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
        bool,
        typer.Option(
            "--version",
            metavar=opt.FLAG,
            help="Show the version.",
            callback=_version,
            is_eager=True,
        ),
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


app.command(cls=turn_options.ChatCommand)(turn_options.chat)
app.command()(turn_options.generate)


@app.command()
def info(
    model: opt.Model = None,
    context: Annotated[
        int | None,
        typer.Option(metavar="N", help="Tokens of context to count with (default: 4096)."),
    ] = None,
    kv_bits: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Bits of keys and values to count with: 4, 8 (default: 16)."
        ),
    ] = None,
    memory: opt.Memory = None,
    json: Annotated[
        bool, typer.Option("--json", metavar=opt.FLAG, help="Print one JSON object instead.")
    ] = False,
    debug: opt.Debug = False,
) -> None:
    """Show what a model is, and whether it fits, before a byte of its weights is downloaded.

    Reads only config.json and the safetensors headers (some kilobytes, asked of the hub if the
    model is not here), and fills in: weights + keys and values + prefill + runtime <= available.

    Examples:

        qwen3-mlx info 8b
        qwen3-mlx info 235b-a22b --memory 192 --context 32768
        qwen3-mlx info ./my-model --json
    """
    from qwen3_mlx.cli.chat.load import default_model
    from qwen3_mlx.cli.commands import info as command

    model = model or default_model()
    code = command.run(model, context=context, kv_bits=kv_bits, gigabytes=memory, as_json=json)
    raise typer.Exit(code)


app.command("models")(models.command)
app.command()(convert)
app.command("bench")(bench.command)
app.command("doctor")(doctor.command)
app.add_typer(sessions.app, name="sessions")
app.add_typer(config.app, name="config")
