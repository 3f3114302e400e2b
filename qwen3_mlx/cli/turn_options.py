"""``qwen3-mlx chat`` and ``qwen3-mlx generate``, and the options of a turn they share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand

from qwen3_mlx.cli import options as opt
from qwen3_mlx.options import CacheFormat, GenerationOptions


@dataclass(frozen=True, slots=True)
class TurnOptions:
    """What both commands can be told about a turn; None where they were not."""

    think: opt.Think = None
    budget: opt.Budget = None
    context: opt.Context = None
    kv_bits: opt.KvBits = None
    kv_window: opt.KvWindow = None
    max_tokens: opt.MaxTokens = None
    system: opt.System = None
    seed: opt.Seed = None
    temperature: opt.Temperature = None
    top_p: opt.TopP = None
    top_k: opt.TopK = None
    min_p: opt.MinP = None
    presence_penalty: opt.PresencePenalty = None
    repetition_penalty: opt.RepetitionPenalty = None

    def cache_format(self) -> CacheFormat:
        """How keys and values are to be kept. Raises `OptionError`."""
        return CacheFormat(self.kv_bits, self.kv_window)

    def options(self) -> GenerationOptions:
        """The same for the engine. Raises `OptionError`."""
        return GenerationOptions(
            thinking=self.think,
            thinking_budget=self.budget,
            max_tokens=self.max_tokens,
            seed=self.seed,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            presence_penalty=self.presence_penalty,
            repetition_penalty=self.repetition_penalty,
        )


def with_turn_options(command: Callable[..., None]) -> Callable[..., None]:
    """`command` with the fields of `Asked` as options in the place of its parameter `asked`."""
    hints = get_type_hints(TurnOptions, include_extras=True)
    named = inspect.Parameter.KEYWORD_ONLY
    shared = [
        inspect.Parameter(f.name, named, default=f.default, annotation=hints[f.name])
        for f in fields(TurnOptions)
    ]
    own = inspect.signature(command, eval_str=True).parameters.values()
    spread = [p for one in own for p in (shared if one.name == "asked" else [one])]

    @functools.wraps(command)
    def told(**given: Any) -> None:
        asked = TurnOptions(**{field.name: given.pop(field.name) for field in fields(TurnOptions)})
        command(**given, asked=asked)

    signature = inspect.Signature([p.replace(kind=named) for p in spread])
    told.__signature__ = signature  # type: ignore[attr-defined]  # what typer reads
    told.__annotations__ = {p.name: p.annotation for p in spread}
    return told


class ChatCommand(TyperCommand):
    """`chat`, whose ``--resume`` takes an id or none."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments."""
        from qwen3_mlx.cli.chat import resume as resuming

        return super().parse_args(ctx, resuming.with_last(args))


Prompt = Annotated[str | None, typer.Argument(metavar="PROMPT", help="What to say to it.")]


@with_turn_options
def chat(
    asked: TurnOptions,
    model: opt.Model = None,
    resume: opt.Resume = None,
    no_save: opt.NoSave = False,
    show_thinking: opt.Show = None,
    hide_reasoning: opt.HideThinking = False,
    system_file: opt.SystemFile = None,
    plain: opt.Plain = None,
    debug: opt.Debug = False,
) -> None:
    """Talk with a model, its thinking dim and its answer as Markdown.

    On the full screen of a terminal, else (and with `--plain`) by lines. `/help` lists commands
    and keys. Ctrl-C while it thinks means "answer now", while it answers "stop". Piped input is
    one message a line, and then stdout has the answers alone.

    Examples:

        qwen3-mlx chat
        qwen3-mlx chat 8b --budget 1024
        qwen3-mlx chat coder-30b --system "You write short Python."
        qwen3-mlx chat --resume
    """
    if asked.system is not None and system_file is not None:
        raise typer.BadParameter("give --system or --system-file, not both")
    from qwen3_mlx.cli.commands import chat as command
    from qwen3_mlx.cli.settings import settings

    options, found = asked.options(), settings.load()
    # a conversation that is resumed goes on as it was, but for what is said now
    defaults = {} if resume else found.options()
    system = asked.system
    if system is None and not resume and system_file is None:
        system = found.get("system")
    show = opt.ShowThinking(show_thinking or found.get("show_thinking") or "live")
    wanted = command.Wanted(
        model,
        options,
        system=system,
        context=asked.context,
        show_thinking=opt.ShowThinking.never if hide_reasoning else show,
        plain=bool(found.get("plain")) if plain is None else plain,
        debug=debug,
        resume=resume,
        system_file=system_file,
        defaults=defaults,
        theme=found.get("theme") or "auto",
        cache_format=asked.cache_format(),
        save=not no_save,
    )
    raise typer.Exit(command.run(wanted))


@with_turn_options
def generate(
    asked: TurnOptions,
    model: opt.Model = None,
    prompt: Prompt = None,
    hide_reasoning: opt.HideThinking = False,
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
    from qwen3_mlx.cli.commands import generate as command
    from qwen3_mlx.cli.settings import settings

    options, found = asked.options(), settings.load()
    code = command.run(
        model,
        prompt,
        options,
        defaults=found.options(),
        system=found.get("system") if asked.system is None else asked.system,
        context=asked.context,
        cache_format=asked.cache_format(),
        hide_thinking=hide_reasoning or found.get("show_thinking") == "never",
        as_json=json,
    )
    raise typer.Exit(code)
