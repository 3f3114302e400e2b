"""Finds a checkpoint's origin: repository, commit, and its card's licence and base model."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qwen3_mlx.files import read_small

_SNAPSHOT = re.compile(r"models--(?P<owner>.+?)--(?P<name>.+)")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_FIELD = r"^{}:[ \t]*(?:\n[ \t]*-[ \t]*)?[\"']?([^\"'\n#]+)"
"""A plain scalar, or the first one of a list below its key."""


@dataclass(frozen=True, slots=True)
class Origin:
    """A source checkpoint's origin."""

    name: str
    """The repository, or the directory as `public_name` tells it."""
    repo: str | None
    revision: str | None
    """The commit, if the source is in the hub's cache."""
    license: str | None
    license_link: str | None
    license_name: str | None = None
    chain: str | None = None
    """The source's own base model, by its card."""

    def as_dict(self) -> dict[str, Any]:
        """The known fields, for JSON."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def public_name(path: str | Path) -> str:
    """`path` as a published card may tell it: of an absolute one, which names the user, its end."""
    return Path(path).name if str(path).startswith(("/", "~")) else str(path)


def origin_of(directory: Path, name: str) -> Origin:
    """Read repository and commit from the hub cache's paths, the rest from the source's card."""
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
    link, named = _field(front, "license_link"), _field(front, "license_name")
    chain = base if base != repo else None
    return Origin(repo or public_name(name), repo, revision, licence, link, named, chain)


def _front_matter(card: Path) -> str:
    try:
        text = read_small(card).decode("utf-8-sig")
    except (OSError, ValueError):
        return ""
    return text.split("\n---", 1)[0] if text.startswith("---") else ""


def _field(front: str, key: str) -> str | None:
    """A plain scalar of the card's YAML, or the first of a list; None for anything else."""
    found = re.search(_FIELD.format(key), front, re.MULTILINE)
    value = found[1].strip() if found else ""
    return value if re.fullmatch(r"[\w./:+-]+", value) else None
