"""The common part of `embed` and `rerank`: reads and writes JSON lines, with errors per line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwen3_mlx.cli import options as opt
from qwen3_mlx.cli.chat.load import note_download
from qwen3_mlx.cli.settings import suggestions
from qwen3_mlx.cli.terminal.progress import ProgressLine
from qwen3_mlx.cli.terminal.screen import Screen
from qwen3_mlx.errors import OptionError
from qwen3_mlx.hub import kinds

if TYPE_CHECKING:
    from qwen3_mlx.model import Qwen3

TOGETHER = 128
"""Lines computed together: enough to fill batches, few enough to print results early."""

Model = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="The model: an alias, a directory or a repository.",
        autocompletion=suggestions.models,
    ),
]
File = Annotated[
    Path | None, typer.Argument(metavar="FILE", help="The lines; without it stdin is read.")
]
Field = Annotated[str, opt.option("NAME", "Where the text of a line that is an object lies.")]
Truncate = Annotated[
    bool, opt.flag("--truncate", "Keep the beginning of what is too long, else it is an error.")
]


def load(name: str, kind: kinds.Kind) -> Qwen3:
    """Load the model `name`, with a note if it is of another kind. Raises as `load`."""
    from qwen3_mlx.model import load as load_any

    screen = Screen()
    note_download(name, screen)
    progress = ProgressLine(screen, f"loading {name}")
    try:
        model = load_any(name, on_progress=progress)
    finally:
        progress.clear()
    if model.kind != kind:
        screen.note(f"{name} is no {kind} by its files and name: what comes out may mean little")
    return model


def check_model(name: str, file: Path | None, default: str) -> None:
    """Raise `OptionError` for a lone argument that is the lines' file, even one that is missing."""
    is_lines = name.endswith(".jsonl") and not Path(name).is_dir()
    if file is None and not name.endswith(".gguf") and (is_lines or Path(name).is_file()):
        hint = f"name the model first: {default} {name}, or pipe the lines in: < {name}"
        expected = "a model, then perhaps the file of the lines"
        raise OptionError("a lone argument is the model", got=name, expected=expected, hint=hint)


def text_of(value: Any, field: str) -> str:
    """The text of a parsed line: the string itself, or its `field`. Raises `OptionError`."""
    if isinstance(value, Exception):
        raise value
    text = value.get(field) if isinstance(value, dict) else value
    if not isinstance(text, str):
        got = f"no text in {field!r}" if isinstance(value, dict) else type(value).__name__
        expected = f"a string, or an object with a string in {field!r}"
        raise OptionError("the line", got=got, expected=expected)
    return text


def run(
    file: Path | None, answers: Callable[[list[Any]], Iterator[dict[str, Any]]], what: str
) -> int:
    """Print one answer per line with its index; returns 1 if any line failed, else 0.

    answers: computes the answers to a batch of parsed lines, in order. what: names an answer.
    """
    screen = Screen()
    progress = ProgressLine(screen, f"{what}s")
    failed = False
    with _lines(file) as lines:
        values = (_value(line) for line in lines if line.strip())
        index = 0
        while chunk := list(islice(values, TOGETHER)):
            batch_answers = list(answers(chunk))
            progress.clear()
            for answer in batch_answers:
                failed |= "error" in answer
                screen.answer(f"{json.dumps({'index': index} | answer, ensure_ascii=False)}\n")
                index += 1
            progress.count(index)
    progress.clear()
    return int(failed)


def _value(line: bytes) -> Any:
    """A line's JSON, or the error of parsing it."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:  # invalid UTF-8 is a ValueError too
        return OptionError("the line is no JSON", got=error)


@contextmanager
def _lines(file: Path | None) -> Iterator[Iterable[bytes]]:
    if file is None:
        yield sys.stdin.buffer if sys.stdin is not None else ()
        return
    try:
        stream = file.open("rb")
    except OSError as error:
        raise OptionError(f"{file} can't be read", got=error.strerror) from None
    with stream:
        yield stream
