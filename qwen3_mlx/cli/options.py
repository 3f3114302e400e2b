"""The options that several commands share, and helpers to declare options."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from qwen3_mlx.cli.settings import suggestions
from qwen3_mlx.errors import OptionError
from qwen3_mlx.options import CacheFormat, GenerationOptions
from qwen3_mlx.options.auto_budget import SPELLED, AutoBudget, read_budget

THINKING, SAMPLING, RUN = "Thinking", "Sampling (default: Qwen's preset for the mode)", "Running"
TOOLS = "Tools"
CONTEXT_HELP = (
    "At most N tokens of conversation: prompt and answer. Beyond the model's own length YaRN is"
    " switched on."
)
DEBUG_KEY = "qwen3_mlx.debug"


def option(metavar: str, help: str, panel: str | None = None, *names: str, **more: Any) -> Any:
    """An option with a value, shown in `panel`; `more` goes to `typer.Option`."""
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel=panel, **more)


def flag(names: str, help: str, panel: str | None = None, **more: Any) -> Any:
    """An option without a value, such as ``--json`` or ``--think/--no-think``."""
    # Without an empty metavar the help shows a flag as taking a <bool>.
    return option("", help, panel, *names.split(), **more)


def _checked_budget(budget: str | None) -> str | None:
    """`budget` if it is valid; raises typer's `BadParameter` otherwise."""
    try:
        read_budget(budget)
    except OptionError:
        raise typer.BadParameter(f"{budget!r} is not {SPELLED}") from None
    return budget


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """`command` for typer: a dataclass parameter becomes one option per field."""
    parameters: list[inspect.Parameter] = []
    groups: dict[str, tuple[type, list[str]]] = {}
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        kind = parameter.annotation
        if not is_dataclass(kind):
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        assert isinstance(kind, type)
        hints = get_type_hints(kind, include_extras=True)
        groups[parameter.name] = (kind, [field.name for field in fields(kind)])
        parameters += [
            inspect.Parameter(
                f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=hints[f.name]
            )
            for f in fields(kind)
        ]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        filled = {
            name: kind(**{field: given.pop(field) for field in names})
            for name, (kind, names) in groups.items()
        }
        command(**given, **filled)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer's
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def _remember_debug(context: typer.Context, value: bool) -> bool:
    # `exit_codes.Guard` reads it from there.
    context.meta[DEBUG_KEY] = value
    return value


Model = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="The model; without one the configured, else the last you chatted with, else `demo`.",
        autocompletion=suggestions.models,
    ),
]
Json = Annotated[bool, flag("--json", "Print one JSON object instead.")]
Memory = Annotated[
    float | None, option("GB", "Ask for a Mac with so much memory, not this machine.")
]
HideThinking = Annotated[bool, flag("-R --hide-reasoning", "Don't show the thinking.", THINKING)]
Debug = Annotated[
    bool,
    flag("--debug", "Show the traceback of an error.", callback=_remember_debug, is_eager=True),
]


def _of_flag(error: OptionError) -> OptionError:
    """`error` about an option of a turn, under its flag's name and with a hint."""
    name, rest = error.what, ""
    if name.startswith("thinking_budget"):
        name, rest = "budget", name.removeprefix("thinking_budget")
    name = name.replace("_", "-")
    if error.hint is not None or " " in name:
        return error
    hint = f"leave --{name} out for the default"
    return OptionError(f"--{name}{rest}", got=error.got, expected=error.expected, hint=hint)


@dataclass(frozen=True, slots=True)
class ToolOptions:
    """The options for MCP servers in `chat` and `generate`."""

    mcp: Annotated[
        Path | None,
        option("FILE", "Offer the tools of the MCP servers in FILE: its mcpServers.", TOOLS),
    ] = None
    allow: Annotated[
        list[str] | None,
        option(
            "TOOL",
            "A tool that may run unasked: server.tool, or server.* for all of them. Repeatable.",
            TOOLS,
        ),
    ] = None

    def check(self) -> None:
        """Raise `OptionError` for ``--allow`` without ``--mcp``."""
        if self.allow and self.mcp is None:
            raise OptionError("--allow without --mcp", hint="name the servers' file: --mcp FILE")


@dataclass(frozen=True, slots=True)
class TurnOptions:
    """A turn's options in `chat` and `generate`; None means the settings' or model's default."""

    think: Annotated[
        bool | None,
        flag(
            "--think/--no-think",
            "Think before answering, or answer at once. Without either the model's default holds.",
            THINKING,
            show_default=False,
        ),
    ] = None
    budget: Annotated[
        str | None,
        option(
            "N|auto[:N]",
            "At most N tokens of thinking; then it is told to answer. 0 is --no-think."
            " auto ends a thought once the answer is sure.",
            THINKING,
            callback=_checked_budget,
        ),
    ] = None
    first: Annotated[
        bool,
        flag("--first", "With --budget auto: answer at once where the answer is sure.", THINKING),
    ] = False
    context: Annotated[
        int | None,
        option(
            "N",
            CONTEXT_HELP,
            RUN,
        ),
    ] = None
    adapter: Annotated[
        Path | None,
        option("DIR", "A LoRA adapter for the model, made with PEFT or mlx-lm.", RUN),
    ] = None
    draft: Annotated[
        str | None,
        option(
            "NAME",
            "Guess tokens and check several a step: a smaller model's name, or `lookup`.",
            RUN,
        ),
    ] = None
    kv_bits: Annotated[
        int | None,
        option(
            "N",
            "Keep keys and values in 8 or 4 bits: half or a quarter of the memory a token.",
            RUN,
        ),
    ] = None
    kv_window: Annotated[
        int | None,
        option(
            "N", "See only the last N tokens and the first four: memory that doesn't grow.", RUN
        ),
    ] = None
    max_tokens: Annotated[
        int | None, option("N", "At most N generated tokens in all; more than the budget.", RUN)
    ] = None
    system: Annotated[str | None, option("TEXT", "The system prompt.", RUN)] = None
    seed: Annotated[int | None, option("N", "The same seed gives the same answer.", RUN)] = None
    temperature: Annotated[
        float | None,
        option(
            "X",
            "0 is greedy, which a thinking Qwen3 should never be: it may repeat without end.",
            SAMPLING,
        ),
    ] = None
    top_p: Annotated[
        float | None,
        option(
            "X", "Draw from the likeliest tokens that together have this probability.", SAMPLING
        ),
    ] = None
    top_k: Annotated[
        int | None, option("N", "Draw from the N likeliest tokens; 0 is off.", SAMPLING)
    ] = None
    min_p: Annotated[
        float | None, option("X", "Drop tokens less likely than X times the likeliest.", SAMPLING)
    ] = None
    presence_penalty: Annotated[
        float | None,
        option(
            "X", "Against loops: 0 to 2 off the score of every token already generated.", SAMPLING
        ),
    ] = None
    repetition_penalty: Annotated[
        float | None,
        option("X", "Divide the score of every token already seen; 1 is off.", SAMPLING),
    ] = None

    def _budget(self) -> int | AutoBudget | None:
        """The parsed budget. Raises `OptionError`."""
        found: int | AutoBudget | None = read_budget(self.budget)
        if not self.first:
            return found
        if not isinstance(found, AutoBudget):
            hint = "--budget auto --first"
            raise OptionError("--first goes with an automatic budget", got=found, hint=hint)
        return replace(found, first=True)

    def cache_format(self) -> CacheFormat:
        """The KV cache's format. Raises `OptionError`, which names the flag."""
        try:
            return CacheFormat(self.kv_bits, self.kv_window)
        except OptionError as error:
            raise _of_flag(error) from None

    def options(self) -> GenerationOptions:
        """The `GenerationOptions`. Raises `OptionError`, which names the flag."""
        try:
            return self._options()
        except OptionError as error:
            raise _of_flag(error) from None

    def _options(self) -> GenerationOptions:
        return GenerationOptions(
            thinking=self.think,
            thinking_budget=self._budget(),
            max_tokens=self.max_tokens,
            seed=self.seed,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            presence_penalty=self.presence_penalty,
            repetition_penalty=self.repetition_penalty,
        )
