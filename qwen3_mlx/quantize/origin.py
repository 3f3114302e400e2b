"""Where a checkpoint came from: repository, commit, and what its own card says."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qwen3_mlx.files import read_small

_SNAPSHOT = re.compile(r"models--(?P<owner>.+?)--(?P<name>.+)")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_FIELD = r"^{}:[ \t]*[\"']?([^\"'\n#]+)"


@dataclass(frozen=True, slots=True)
class Origin:
    """What the card says about the source."""

    name: str
    """The repository, or the directory as it was named."""
    repo: str | None
    revision: str | None
    """The commit, where the hub's cache knows it."""
    license: str | None
    license_link: str | None
    chain: str | None = None
    """What the source itself was made from, by its own card."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def origin_of(directory: Path, name: str) -> Origin:
    """Read the origin off the hub cache's directory names, and licence off the source's card."""
    repo = revision = None
    snapshot = directory.absolute()
    match = _SNAPSHOT.fullmatch(snapshot.parent.parent.name)
    if match and _COMMIT.fullmatch(snapshot.name):
        repo, revision = f"{match['owner']}/{match['name']}", snapshot.name
    front = _front_matter(directory / "README.md")
    licence = _field(front, "license") or (
        "apache-2.0" if (repo or "").startswith("Qwen/") else None
    )
    base = _field(front, "base_model")
    link = _field(front, "license_link")
    return Origin(repo or name, repo, revision, licence, link, base if base != repo else None)


def _front_matter(card: Path) -> str:
    try:
        text = read_small(card).decode("utf-8")
    except (OSError, ValueError):
        return ""
    return text.split("\n---", 1)[0] if text.startswith("---") else ""


def _field(front: str, key: str) -> str | None:
    """A plain scalar of the card's YAML, or the first of a list; None for anything else."""
    found = re.search(_FIELD.format(key), front, re.MULTILINE)
    if found is None:
        found = re.search(rf"^{key}:[ \t]*\n-[ \t]*([^\n#]+)", front, re.MULTILINE)
    value = found[1].strip() if found else ""
    return value if re.fullmatch(r"[\w./:+-]+", value) else None
