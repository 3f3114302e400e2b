"""Writes the picture and the lists in docs/design.md from the house: ``python -m docs.make_house``.

The rooms come from `tests.test_house.FLOORS`, each sentence from the docstring of its file.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.test_house import FLOORS, PACKAGE

FILE = Path(__file__).with_name("design.md")
BEGIN, END = "<!-- made by `python -m docs.make_house` -->", "<!-- made up to here -->"

NEXT_ROOMS = {
    "serve": ("cli", "The model behind HTTP, OpenAI's and Anthropic's way of asking."),
    "tools": ("model", "Tool servers (MCP), and the loop that calls a tool and goes on."),
    "vision": ("engine", "The vision tower of Qwen3-VL."),
}
"""Rooms that are not built yet: the room they stand beside, and what they are for."""
NEXT_FILES = {
    "nn/parallel.py": "One network over several machines: its shards, and what they exchange.",
}


@cache
def sentence(path: Path) -> str:
    """The first paragraph of a file's docstring, as a cell of a table."""
    text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    return re.sub(r"``?(.+?)``?", r"`\1`", " ".join(text.split("\n\n")[0].split())).replace(
        "|", "\\|"
    )


def coming() -> dict[str, tuple[str, str]]:
    """The rooms of `NEXT_ROOMS` that FLOORS doesn't have."""
    built = {room for floor in FLOORS for room in floor}
    return {room: place for room, place in NEXT_ROOMS.items() if room not in built}


def label(room: str) -> str:
    """A room as the picture names it: a folder ends with a slash, a star has yet to be built."""
    if room in coming():
        return f"{room}/ *"
    return f"{room}/" if (PACKAGE / room).is_dir() else f"{room}.py"


def picture() -> str:
    """The floors, the highest first."""
    rows = []
    for floor in reversed(FLOORS):
        new = [room for room, (beside, _) in coming().items() if beside in floor]
        rows.append("   ".join(f"{label(room):12}" for room in (*floor, *new)).rstrip())
    width = max(map(len, rows)) + 2
    lines = [f"│ {row:{width - 2}} │" for row in rows]
    rule = "─" * width
    return "\n".join([f"┌{rule}┐", f"\n├{rule}┤\n".join(lines), f"└{rule}┘"])


def rooms() -> Iterator[str]:
    """A table of the rooms, the highest first."""
    yield "| room | what it is for |"
    yield "|---|---|"
    for floor in reversed(FLOORS):
        for room in floor:
            inside = PACKAGE / room / "__init__.py"
            path = inside if inside.is_file() else PACKAGE / f"{room}.py"
            yield f"| `{label(room)}` | {sentence(path)} |"
        for room, (beside, about) in coming().items():
            if beside in floor:
                yield f"| `{room}/` * | {about} |"


def files(room: str) -> Iterator[str]:
    """A list of the files of one room."""
    folder = PACKAGE / room
    found = {
        str(path.relative_to(folder)): sentence(path)
        for path in sorted(folder.rglob("*.py"))
        if path != folder / "__init__.py" and sentence(path)
    }
    new = {
        path.partition("/")[2]: f"* {about}"
        for path, about in NEXT_FILES.items()
        if path.startswith(f"{room}/") and not (PACKAGE / path).exists()
    }
    yield f"**`{room}/`**\n"
    for name, about in (found | new).items():
        name = name.replace("__init__.py", "")
        yield f"- `{name}`: {about}"


def house() -> str:
    """Everything between the two marks."""
    parts = ["```text", picture(), "```", "", *rooms(), "", "## File by file"]
    for floor in reversed(FLOORS):
        for room in floor:
            if (PACKAGE / room).is_dir():
                parts += ["", *files(room)]
    return "\n".join(parts)


def document(text: str) -> str:
    """docs/design.md with its middle made anew."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{house()}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    FILE.write_text(document(FILE.read_text("utf-8")), "utf-8")
