"""The commands and their options, and the one place where an error becomes an exit code.

Exit codes: 0 success, 1 an error the user can act on, 2 wrong usage, 130 Ctrl-C, 141 stdout's
reader went away. What a command does is imported when it runs, so that ``--help`` is quick.
"""

from __future__ import annotations

import sys
import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from qwen3_mlx.cli import bench, doctor, resuming, sessions
from qwen3_mlx.cli import options as opt
from qwen3_mlx.cli.convert import convert
from qwen3_mlx.cli.screen import Screen, prepare_streams, silence_stdout
from qwen3_mlx.errors import Qwen3Error
from qwen3_mlx.options import GenerationOptions

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
app.add_typer(sessions.app, name="sessions")


def run() -> int:
    """The whole program; returns the exit code, and leaves a stdout that closes quietly."""
    prepare_streams()
    try:
        app(prog_name="qwen3-mlx")
        code = 0
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

    A MODEL is `demo` (a small bundled demonstration, offline), an alias such as `4b`, `8b`,
    `30b-a3b`, `4b-thinking-2507` or `coder-30b` (downloaded once, 4 bits a weight), a directory,
    or a hub repository `owner/name`.

    Start with `qwen3-mlx chat`; ask `qwen3-mlx info 8b` whether a model fits before downloading.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


ChatModel = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL", help="The model; without one the last you chatted with, else `demo`."
    ),
]
GenerateModel = Annotated[
    str | None,
    typer.Argument(metavar="MODEL", help="The model; without one as for `chat`."),
]
Prompt = Annotated[str | None, typer.Argument(metavar="PROMPT", help="What to say to it.")]


class ChatCommand(TyperCommand):
    """`chat`, whose ``--resume`` takes an id or none."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments."""
        return super().parse_args(ctx, resuming.with_last(args))


@app.command(cls=ChatCommand)
def chat(
    model: ChatModel = None,
    resume: opt.Resume = None,
    no_save: opt.NoSave = False,
    think: opt.Think = None,
    budget: opt.Budget = None,
    show_thinking: opt.Show = opt.ShowThinking.live,
    hide_reasoning: opt.HideThinking = False,
    context: opt.Context = None,
    max_tokens: opt.MaxTokens = None,
    system: opt.System = None,
    system_file: opt.SystemFile = None,
    seed: opt.Seed = None,
    temperature: opt.Temperature = None,
    top_p: opt.TopP = None,
    top_k: opt.TopK = None,
    min_p: opt.MinP = None,
    presence_penalty: opt.PresencePenalty = None,
    repetition_penalty: opt.RepetitionPenalty = None,
    plain: Annotated[
        bool,
        typer.Option(
            "--plain",
            metavar=opt.FLAG,
            help="Chat line by line, not on the full screen.",
            rich_help_panel=opt.RUN,
        ),
    ] = False,
    debug: opt.Debug = False,
) -> None:
    """Talk with a model, its thinking dim and its answer as Markdown.

    On the full screen of a terminal, else by lines. `/help` lists commands and keys. Ctrl-C means
    "answer now" while it thinks, then "stop". Piped input is a message a line, stdout the answers.

    Examples:

        qwen3-mlx chat
        qwen3-mlx chat 8b --budget 1024
        qwen3-mlx chat --resume
    """
    asked = _options(locals())
    if system is not None and system_file is not None:
        raise typer.BadParameter("give --system or --system-file, not both")
    from qwen3_mlx.cli import chat as command

    code = command.run(
        model,
        asked,
        system=system,
        context=context,
        show_thinking=opt.ShowThinking.never if hide_reasoning else show_thinking,
        plain=plain,
        debug=debug,
        resume=resume,
        system_file=system_file,
        save=not no_save,
    )
    raise typer.Exit(code)


@app.command()
def generate(
    model: GenerateModel = None,
    prompt: Prompt = None,
    think: opt.Think = None,
    budget: opt.Budget = None,
    hide_reasoning: opt.HideThinking = False,
    context: opt.Context = None,
    max_tokens: opt.MaxTokens = None,
    system: opt.System = None,
    seed: opt.Seed = None,
    temperature: opt.Temperature = None,
    top_p: opt.TopP = None,
    top_k: opt.TopK = None,
    min_p: opt.MinP = None,
    presence_penalty: opt.PresencePenalty = None,
    repetition_penalty: opt.RepetitionPenalty = None,
    json: Annotated[
        bool,
        typer.Option(
            "--json",
            metavar=opt.FLAG,
            help="Print one JSON object instead: answer, thinking, counts, timings.",
            rich_help_panel=opt.RUN,
        ),
    ] = False,
    debug: opt.Debug = False,
) -> None:
    """Answer one prompt: the answer on stdout, the thinking on stderr.

    A lone argument is the prompt; but if it has the form of a model's name and stdin is piped in,
    it is the model. Piped text joins the prompt, behind an empty line.

    Examples:

        qwen3-mlx generate 8b "What is 17 * 23?"
        git diff | qwen3-mlx generate coder-30b "Review this change." > review.md
        qwen3-mlx generate demo --json "Sort 3, 1, 2" | jq .answer
    """
    asked = _options(locals())
    from qwen3_mlx.cli import generate as command

    code = command.run(
        model,
        prompt,
        asked,
        system=system,
        context=context,
        hide_thinking=hide_reasoning,
        as_json=json,
    )
    raise typer.Exit(code)


@app.command()
def info(
    model: ChatModel = None,
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
    memory: Annotated[
        float | None,
        typer.Option(metavar="GB", help="Ask for a Mac with so much memory, not this machine."),
    ] = None,
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
    from qwen3_mlx.cli import info as command

    code = command.run(model, context=context, kv_bits=kv_bits, gigabytes=memory, as_json=json)
    raise typer.Exit(code)


app.command()(convert)
app.command("bench")(bench.command)
app.command("doctor")(doctor.command)


def _options(given: dict[str, Any]) -> GenerationOptions:
    """The options of a turn among a command's arguments. Raises `OptionError`."""
    renamed = {"think": "thinking", "budget": "thinking_budget"}
    same = (
        *("max_tokens", "seed", "temperature", "top_p", "top_k", "min_p"),
        *("presence_penalty", "repetition_penalty"),
    )
    wanted = renamed | {name: name for name in same}
    return GenerationOptions(**{field: given[name] for name, field in wanted.items()})
