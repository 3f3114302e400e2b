"""``qwen3-mlx generate``: one prompt, one answer, for pipes and scripts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwen3_mlx.cli import options as opt
from qwen3_mlx.cli.chat import load
from qwen3_mlx.cli.settings import settings
from qwen3_mlx.cli.terminal import stdin
from qwen3_mlx.cli.terminal.interrupt import interrupts_turn
from qwen3_mlx.cli.terminal.progress import ProgressLine
from qwen3_mlx.cli.terminal.render import PlainAnswer, Renderer, ending_note
from qwen3_mlx.cli.terminal.screen import Screen
from qwen3_mlx.cli.tools import one_shot
from qwen3_mlx.cli.tools.one_shot import record
from qwen3_mlx.errors import OptionError
from qwen3_mlx.events import Reply
from qwen3_mlx.files import read_given
from qwen3_mlx.hub import resolve

if TYPE_CHECKING:
    from qwen3_mlx.model import Qwen3

INTERRUPTED = 130


def arrange(first: str | None, second: str | None, piped: str) -> tuple[str | None, str]:
    """The model's name, if given, and the prompt. Raises `OptionError` if the prompt is empty.

    Two arguments are model and prompt. A single one is the model if it has the form of a model's
    name and stdin has text; else it is the prompt. Text from stdin follows after an empty line.
    A single "24/7" is a prompt, and with text from stdin refused: it could be a repository.
    """
    if second is None and first is not None and resolve.may_be_words(first):
        if not piped.strip():
            return None, stdin.argument(first)
        hint = f'qwen3-mlx generate {first} "a prompt", or: qwen3-mlx generate MODEL "{first}"'
        raise OptionError("a model or a prompt?", got=first, expected="both", hint=hint)
    piped = piped.rstrip("\r\n") if piped.strip() else ""
    model, words = first, second
    if first is not None and second is None and not (piped and resolve.is_model_name(first)):
        model, words = None, first
    prompt = "\n\n".join(part for part in (words, piped) if part)
    if not prompt.strip():
        hint = 'qwen3-mlx generate [MODEL] "What is 17 * 23?", or pipe the prompt in'
        raise OptionError("the prompt is empty", hint=hint)
    if model is None and not piped and words is not None and resolve.is_model_name(words):
        hint = f'a lone argument is the prompt; say: qwen3-mlx generate {words} "your prompt"'
        raise OptionError("there is a model but no prompt", got=words, hint=hint)
    return model, stdin.argument(prompt)


@dataclass(frozen=True, slots=True)
class GenerateOptions:
    """The options that only `generate` has."""

    hide_reasoning: opt.HideThinking = False
    as_json: Annotated[
        bool,
        opt.flag(
            "--json", "Print one JSON object instead: answer, thinking, counts, timings.", opt.RUN
        ),
    ] = False
    tools: Annotated[
        Path | None,
        opt.option("FILE", "Functions the model may ask for: a JSON list of schemas.", opt.RUN),
    ] = None
    schema: Annotated[
        Path | None,
        opt.option(
            "FILE", "A JSON schema that the answer follows, its first character on.", opt.RUN
        ),
    ] = None


@opt.with_options
def command(
    turn: opt.TurnOptions,
    own: GenerateOptions,
    servers: opt.ToolOptions,
    model: opt.Model = None,
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="What to say to it.")
    ] = None,
    debug: opt.Debug = False,
) -> None:
    """Answer one prompt: the answer on stdout, the thinking on stderr.

    A lone argument is the prompt; but if it has the form of a model's name and stdin is piped in,
    it is the model ("and/or" could be both, and is refused there). Piped text joins the prompt,
    behind an empty line.

    Examples:

        qwen3-mlx generate 8b "What is 17 * 23?"
        git diff | qwen3-mlx generate coder-30b "Review this change." > review.md
        qwen3-mlx generate demo --json "Sort 3, 1, 2" | jq .answer
        qwen3-mlx generate 4b --schema person.json "Who wrote Faust?" | jq .born
        qwen3-mlx generate 8b --mcp mcp.json --allow "files.*" "What is in my notes?"
    """
    form = {} if own.schema is None else {"schema": read_schema(own.schema)}
    options, found = turn.options().override(form), settings.load()
    offered: dict[str, Any] = {} if own.tools is None else {"tools": read_tools(own.tools)}
    chosen_tools = one_shot.read(servers, own.tools)
    name, text = arrange(model, prompt, stdin.piped_text())
    screen = Screen()
    name, loaded = _open(name, turn, screen)
    options = settings.apply_defaults(options, found.options(), loaded.family)
    system = found.get("system") if turn.system is None else turn.system
    system = stdin.argument(system) if system else None
    hide = own.hide_reasoning or found.get("show_thinking") == "never"
    if chosen_tools is not None:
        session = loaded.session(system, options)
        shot = one_shot.OneShot(name, session, chosen_tools, screen, hide_thinking=hide)
        raise typer.Exit(INTERRUPTED if shot.run(text, as_json=own.as_json) else 0)
    messages = [{"role": "user", "content": text}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    progress = ProgressLine(screen, "reading the prompt")
    generation = loaded.stream(messages, options, on_progress=progress, **offered)
    with interrupts_turn(generation, answer_first=False) as presses:
        if own.as_json:
            reply = Reply.from_events(generation)
            progress.clear()
            screen.json(f"{json.dumps(record(name, reply))}\n")
        else:
            renderer = Renderer(screen, PlainAnswer(screen), hide_thinking=hide)
            done = renderer.paint(progress.cleared_by(generation))
            if note := ending_note(done, options.max_tokens, is_silent=renderer.is_silent):
                screen.note(note)
    raise typer.Exit(INTERRUPTED if presses.count else 0)


def read_tools(file: Path) -> list[dict[str, Any]]:
    """The tools in a JSON file. Raises `OptionError`."""
    from qwen3_mlx.text.tools import normalise_tools

    try:
        tools = normalise_tools(json.loads(read_given(file).decode("utf-8-sig")))
    except (OSError, ValueError, RecursionError) as error:
        got = getattr(error, "strerror", None) or str(error)
        raise OptionError(f"{file} can't be read", got=got, expected="a JSON list") from None
    if tools is None:
        raise OptionError(f"{file} has no tools", got="null", expected="a JSON list")
    return tools


def read_schema(file: Path) -> str:
    """The text of a schema file. Raises `OptionError`."""
    try:
        return read_given(file).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        got = getattr(error, "strerror", None) or str(error)
        raise OptionError(f"{file} can't be read", got=got, expected="a JSON schema") from None


def _open(name: str | None, turn: opt.TurnOptions, screen: Screen) -> tuple[str, Qwen3]:
    """Load the model; returns its name and the model. Notes go to stderr."""
    chosen, note = load.choose(name)
    if note and (screen.err_is_terminal or note != load.DEMO_NOTE):
        screen.note(note)
    context = load.context_of(turn.context, chosen, screen)
    parts = (chosen, context, screen, turn.cache_format(), turn.adapter, turn.draft)
    if load.is_last(name, chosen):
        chosen, loaded = load.open_or_demo(*parts)
    else:
        loaded = load.open_model(*parts)
    if screen.err_is_terminal and (yarn := load.yarn_note(loaded)):
        screen.note(yarn)
    return chosen, loaded
