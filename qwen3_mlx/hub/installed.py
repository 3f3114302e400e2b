"""What models lie on this machine: bundled, in the hub's cache, and in directories one names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qwen3_mlx.errors import ConfigError, Qwen3Error
from qwen3_mlx.files import read_config, read_small
from qwen3_mlx.gguf.folder import of as as_folder
from qwen3_mlx.gguf.header import read_file
from qwen3_mlx.gguf.model import models
from qwen3_mlx.hub import cache, releases, resolve

DEPTH = 2
"""How deep models are looked for in a directory: OWNER/NAME, as LM Studio keeps them."""


@dataclass(frozen=True, slots=True)
class Found:
    """A model's name as one types it, its directory, and why it can't be used, if so."""

    name: str
    path: Path
    problem: str = ""
    repo: str = ""


def everything() -> list[Found]:
    """The bundled models and the cached ones, those with an alias first, in the family's order."""
    order = {alias: place for place, alias in enumerate(releases.aliases())}
    cached = sorted(in_cache(), key=lambda found: (order.get(found.name, len(order)), found.name))
    return [*(Found(name, path) for name, path in resolve.bundled()), *cached]


def in_cache() -> Iterator[Found]:
    """The Qwen3 snapshots of the hub's cache, half downloaded ones with what is missing."""
    for repository in _folders(cache.cache_dir()):
        kind, _, name = repository.name.partition("--")
        repo = name.replace("--", "/", 1)
        if kind != "models" or "/" not in repo:
            continue
        named = list(_snapshots(repository))
        if not named and _sounds_right(repo):
            yield Found(_typed(repo, "main"), repository, "a download that broke off", repo)
        for revision, snapshot in named:
            problem = _problem(snapshot, repo)
            if problem is not None:
                yield Found(_typed(repo, revision), snapshot, problem, repo)


def in_directory(folder: Path) -> list[Found]:
    """The models in `folder`: itself, or what lies in it, up to two levels deep; GGUF files too.

    A GGUF file of another architecture is left out, one that can't be read is listed with why.
    """
    found = list(_models_below(folder, DEPTH))
    files = [file for below in _levels(folder, DEPTH) for file in _gguf_files(below)]
    listed = filter(None, map(_gguf, files))
    return [*(Found(str(path), path) for path in found), *listed]


def _levels(folder: Path, depth: int) -> Iterator[Path]:
    """`folder` and what lies in it, up to `depth` levels, but for dot folders and checkpoints."""
    yield folder
    if depth and not _has_config(folder):
        for below in _folders(folder):
            if not below.name.startswith("."):
                yield from _levels(below, depth - 1)


def _gguf_files(folder: Path) -> list[Path]:
    """The first files of the GGUF models in `folder`."""
    try:
        return [folder / name for name in models([entry.name for entry in folder.iterdir()])]
    except OSError:
        return []


def _gguf(file: Path) -> Found | None:
    """The model in a GGUF file, by its metadata; None if it says that it is no Qwen3."""
    try:
        said = read_file(file).metadata.get("general.architecture")
        if said not in ("qwen3", "qwen3moe"):
            return None
        return Found(str(file), as_folder(file))
    except (Qwen3Error, OSError) as error:
        why = error.summary if isinstance(error, Qwen3Error) else error.strerror or str(error)
        return Found(str(file), file, f"can't be read: {why}")


def _models_below(folder: Path, depth: int) -> Iterator[Path]:
    if _is_qwen3(folder):
        yield folder
    elif depth and not _has_config(folder):
        for below in _folders(folder):
            if not below.name.startswith("."):
                yield from _models_below(below, depth - 1)


def _problem(snapshot: Path, repo: str) -> str | None:
    """What a snapshot lacks, "" if nothing; None if it is no Qwen3."""
    try:
        ours = (snapshot / "config.json").is_file()
        missing = cache.missing_files(snapshot)
    except OSError as error:
        return f"can't be read: {error.strerror}" if _sounds_right(repo) else None
    if not (_is_qwen3(snapshot) if ours else _sounds_right(repo)):
        return None
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    return f"incomplete: {missing[0]}{more} missing" if missing else ""


def _snapshots(repository: Path) -> Iterator[tuple[str, Path]]:
    """The snapshots of a cached repository, each once, under the best name for it."""
    revisions: dict[str, str] = {}
    references = repository / "refs"
    for reference in sorted(references.rglob("*"), key=lambda file: (file.name != "main", file)):
        try:
            commit = read_small(reference).decode("utf-8").strip()
        except (OSError, ValueError):
            continue
        revisions.setdefault(commit, str(reference.relative_to(references)))
    for snapshot in _folders(repository / "snapshots"):
        yield revisions.get(snapshot.name, snapshot.name), snapshot


def _typed(repo: str, revision: str) -> str:
    """What one types to get it."""
    release = releases.of_repo(repo)
    if revision != "main":
        return f"{repo}@{revision}"
    return release.alias if release else repo


def _sounds_right(repo: str) -> bool:
    return "qwen3" in repo.lower()


def _is_qwen3(folder: Path) -> bool:
    """Whether config.json names Qwen3; where it is damaged, whether the folder's name does."""
    try:
        if not (folder / "config.json").is_file():
            return False
        return read_config(folder).get("model_type") in ("qwen3", "qwen3_moe")
    except OSError:
        return False
    except ConfigError:
        return _sounds_right(str(folder))


def _has_config(folder: Path) -> bool:
    try:
        return (folder / "config.json").exists()
    except OSError:
        return False


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if entry.is_dir())
    except OSError:
        return []
