"""``qwen3-mlx config``: shows and changes the settings."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from qwen3_mlx.cli import options as opt
from qwen3_mlx.cli.settings import folders, settings, suggestions, write
from qwen3_mlx.cli.terminal.screen import Screen, printable
from qwen3_mlx.errors import ConfigError

app = typer.Typer(rich_markup_mode="markdown")

Key = Annotated[
    str,
    typer.Argument(
        metavar="KEY",
        help="What is set; `qwen3-mlx config` lists all.",
        autocompletion=suggestions.keys,
    ),
]
Value = Annotated[
    str,
    typer.Argument(
        metavar="VALUE",
        help="The value; `default` is the same as `unset`.",
        autocompletion=suggestions.values,
    ),
]


@app.callback(invoke_without_command=True)
def command(
    context: typer.Context,
    as_json: opt.Json = False,
    debug: opt.Debug = False,
) -> None:
    """Show what is set and where; get, set and unset keys of the configuration file.

    A flag wins over a variable such as QWEN3_MLX_BUDGET, a variable over the file, the file over
    what is built in.

    Examples:

        qwen3-mlx config
        qwen3-mlx config set model 8b
        QWEN3_MLX_BUDGET=256 qwen3-mlx chat
    """
    if context.invoked_subcommand is not None:
        return
    found, screen = settings.read_all(), Screen()
    rows = [_row(name, found) for name in settings.KEYS]
    if as_json:
        values = {name: {"value": value, "source": source} for name, value, source in rows}
        record = {
            "path": str(settings.file()),
            "settings": values,
            "problems": [str(problem) for problem in found.problems],
        }
        screen.json(f"{json.dumps(record, ensure_ascii=False)}\n")
    else:
        path = settings.file()
        there = found.problems or any(s.source == "file" for s in found.values.values())
        screen.answer(f"{path}{'' if there or path.exists() else ' (not there yet)'}\n")
        for name, value, source in rows:
            text = _shown(settings.KEYS[name].builtin if value is None else value)
            screen.answer(f"{name:<20}{text:<28}  {source}\n")
    for problem in found.problems:
        screen.error(problem)
    raise typer.Exit(int(bool(found.problems)))


def _row(name: str, found: settings.Settings) -> tuple[str, Any, str]:
    """A key, its value (None if unset), and the source of the value."""
    if name in found.values:
        return name, found.values[name].value, found.values[name].source
    if name == "model":
        from qwen3_mlx.cli.chat import load

        chosen, _ = load.unset()
        return name, chosen, "the last chat" if chosen == folders.last_model() else "built in"
    return name, None, "built in"


def _shown(value: Any) -> str:
    """A value on one line, at most 60 characters."""
    text = " ".join(printable(_as_text(value)).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def _as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@app.command()
def get(key: Key, debug: opt.Debug = False) -> None:
    """Print the value that holds, whoever set it; `default` where nobody did.

    Examples:

        qwen3-mlx config get budget
    """
    settings.known(key)
    _, value, _ = _row(key, settings.load())
    Screen().answer(f"{settings.DEFAULT if value is None else _as_text(value)}\n")


@app.command(name="set", context_settings={"ignore_unknown_options": True})
def set_value(key: Key, value: Value, debug: opt.Debug = False) -> None:
    """Set a key in the file; its comments and order stay.

    Examples:

        qwen3-mlx config set model 8b
        qwen3-mlx config set budget 1024
        qwen3-mlx config set theme light
    """
    setting = settings.known(key)
    if value == settings.DEFAULT:
        write.put(key, None)
    else:
        parsed = setting.from_text(value)
        if key == "model":
            from qwen3_mlx.hub import resolve

            resolve.parse(parsed)  # refuse an invalid name now rather than at the next chat
            parsed = folders.lasting_name(parsed)
        write.put(key, parsed)
    if os.environ.get(setting.variable):
        Screen().note(f"{setting.variable} is set, and wins over the file")


@app.command()
def unset(key: Key, debug: opt.Debug = False) -> None:
    """Take a key out of the file, so that what is built in holds again.

    Examples:

        qwen3-mlx config unset budget
    """
    if key not in settings.read(settings.file()):
        settings.known(key)
    write.put(key, None)


@app.command()
def path(debug: opt.Debug = False) -> None:
    """Print where the file is, or would be.

    Examples:

        qwen3-mlx config path
    """
    Screen().answer(f"{settings.file()}\n")


@app.command()
def edit(debug: opt.Debug = False) -> None:
    """Open the file in $VISUAL or $EDITOR, and check it afterwards.

    A new file has every key in it, commented out.

    Examples:

        qwen3-mlx config edit
    """
    where = settings.file()
    command = _editor()
    with write.exclusive(where):
        if not where.exists():
            write.save(where, template())
        _edit(where, command)
    problems = settings.read_all().problems
    for problem in problems:
        Screen().error(problem)
    raise typer.Exit(int(bool(problems)))


def _edit(where: Path, command: list[str]) -> None:
    import subprocess

    try:
        code = subprocess.run([*command, str(where)], check=False).returncode
    except OSError as error:
        hint = f"set EDITOR, or edit {where} yourself"
        raise ConfigError(f"the editor {command[0]}", got=error.strerror, hint=hint) from None
    if code:
        raise ConfigError(f"the editor {command[0]} ended with {code}; {where} is as it left it")


def _editor() -> list[str]:
    """The editor's command. Raises `ConfigError` if none is found."""
    import shlex
    import shutil

    for name in ("VISUAL", "EDITOR"):
        try:
            if words := shlex.split(os.environ.get(name, "")):
                return words
        except ValueError as error:
            raise ConfigError(name, got=os.environ[name], expected=f"a command ({error})") from None
    for program in ("nano", "vi"):
        if shutil.which(program):
            return [program]
    raise ConfigError("no editor", hint=f"set EDITOR, or edit {settings.file()} yourself")


def template() -> str:
    """The text of a configuration file in which every key is commented out."""
    lines = ["# qwen3-mlx: what holds unless a command or a variable says otherwise", ""]
    for key in settings.KEYS.values():
        choices = f": {', '.join(key.choices)}" if key.choices else ""
        lines.append(f"# {key.help}{choices} (without it: {key.builtin})")
        lines += [f"# {key.name} = {_EXAMPLES[key.name]}", ""]
    return "\n".join(lines)


_EXAMPLES = {
    "model": '"8b"',
    "thinking": "true",
    "budget": "1024",
    "max_tokens": "4096",
    "context": "16384",
    "system": '"Be brief."',
    "temperature": "0.6",
    "top_p": "0.95",
    "top_k": "20",
    "min_p": "0.0",
    "presence_penalty": "0.5",
    "repetition_penalty": "1.05",
    "show_thinking": '"live"',
    "plain": "false",
    "theme": '"auto"',
}
"""An example value of each key, in TOML."""
