"""Lists the commands that match the input, and completes them with Tab."""

from __future__ import annotations

import os
from collections.abc import Callable

from textual.widgets import Static

from qwen3_mlx.cli.chat import slash_commands
from qwen3_mlx.cli.chat.result import Command
from qwen3_mlx.cli.settings import folders
from qwen3_mlx.files import expanded

SHOWN = 6


class Hints(Static):
    """Lists the commands that match the input; hidden if none does."""

    DEFAULT_CSS = """
    Hints {
        height: auto; max-height: 50%; padding: 0 1; display: none;
        text-style: dim; text-wrap: nowrap; text-overflow: ellipsis;
    }
    """

    def suggest(self, text: str) -> None:
        """List the commands that match `text`."""
        fitting = matching(text)
        self.display = bool(fitting)
        lines = [f"/{c.usage:<18} {c.help}" for c in fitting[:SHOWN]]
        more = f"… {len(fitting) - SHOWN} more" if len(fitting) > SHOWN else ""
        self.update("\n".join([*lines, more] if more else lines))


def matching(text: str) -> list[Command]:
    """The commands of which `text` is a prefix, or the one whose argument it contains."""
    name, space, _ = text.partition(" ")
    if not text.startswith("/") or "\n" in text or len(text) > 100:
        return []
    known = slash_commands.COMMANDS
    if space:
        return [known[name[1:]]] if name[1:] in known else []
    return [command for key, command in known.items() if key.startswith(name[1:])]


def complete(text: str) -> str:
    """`text` extended as far as it is unambiguous; a complete name gets a space."""
    name, space, rest = text.partition(" ")
    if not text.startswith("/") or "\n" in text:
        return text
    if not space:
        return _grown(name, [f"/{key}" for key in slash_commands.COMMANDS])
    values = ARGUMENTS.get(name[1:])
    return f"{name} {_grown(rest, values(rest))}" if values else text


def _grown(text: str, values: list[str]) -> str:
    fitting = [value for value in values if value.startswith(text)]
    if len(fitting) == 1:
        return fitting[0] if fitting[0].endswith("/") else f"{fitting[0]} "
    shared = os.path.commonprefix(fitting)  # noqa: RUF071 (letters are meant)
    return shared or text


def _models(_text: str) -> list[str]:
    from qwen3_mlx.hub import releases, resolve

    return [*(name for name, _ in resolve.bundled()), *releases.aliases()]


def _files(text: str) -> list[str]:
    """Paths with the prefix `text`; for an empty text the saved conversations."""
    if not text:
        return sorted(map(str, folders.sessions().glob("*.jsonl")))
    folder, name = os.path.split(text)
    try:
        entries = list(expanded(folder or ".").iterdir())
    except OSError:
        return []
    found = [f"{e.name}/" if e.is_dir() else e.name for e in entries if e.name.startswith(name)]
    return sorted(os.path.join(folder, entry) for entry in found)  # noqa: PTH118 (keeps a ~)


ARGUMENTS: dict[str, Callable[[str], list[str]]] = {
    "model": _models,
    "load": _files,
    "save": _files,
    "export": lambda _text: ["md", "json"],
    "budget": lambda _text: ["off", "auto", "256", "1024", "4096"],
}
