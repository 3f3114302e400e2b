"""Lists the models on this machine: bundled, in the hub's cache, and in given directories."""

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
"""Levels of subdirectories that are searched: LM Studio stores models as OWNER/NAME."""


@dataclass(frozen=True, slots=True)
class Found:
    """A model: the name that selects it, its path, and the reason if it can't be used."""

    name: str
    path: Path
    problem: str = ""
    repo: str = ""


def everything() -> list[Found]:
    """The bundled and the cached models; cached ones with an alias come first."""
    order = {alias: place for place, alias in enumerate(releases.aliases())}
    cached = sorted(in_cache(), key=lambda found: (order.get(found.name, len(order)), found.name))
    return [*(Found(name, path) for name, path in resolve.bundled()), *cached]


def in_cache() -> Iterator[Found]:
    """The Qwen3 snapshots in the hub's cache; incomplete ones with the missing files."""
    for repository in _folders(cache.cache_dir()):
        kind, _, name = repository.name.partition("--")
        repo = name.replace("--", "/", 1)
        if kind != "models" or "/" not in repo:
            continue
        named = list(_snapshots(repository))
        if not named and _named_qwen3(repo):
            yield Found(_name_of(repo, "main"), repository, "a download that broke off", repo)
        for revision, snapshot in named:
            problem = _problem(snapshot, repo)
            if problem is not None:
                yield Found(_name_of(repo, revision), snapshot, problem, repo)


def in_directory(folder: Path) -> list[Found]:
    """The models in `folder` and up to two levels below, including GGUF files.

    GGUF files of other architectures are omitted; unreadable ones are listed with the reason.
    """
    folders = list(_levels(folder, DEPTH))
    files = [file for below in folders for file in _gguf_files(below)]
    listed = filter(None, map(_gguf, files))
    return [*(Found(str(path), path) for path in folders if _is_qwen3(path)), *listed]


def _levels(folder: Path, depth: int) -> Iterator[Path]:
    """`folder` and its subfolders up to `depth` levels, without hidden ones or those of models."""
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
    """The model in a GGUF file; None if its metadata names another architecture."""
    try:
        architecture = read_file(file).metadata.get("general.architecture")
        if architecture not in ("qwen3", "qwen3moe"):
            return None
        return Found(str(file), as_folder(file))
    except (Qwen3Error, OSError) as error:
        why = error.summary if isinstance(error, Qwen3Error) else error.strerror or str(error)
        return Found(str(file), file, f"can't be read: {why}")


def _problem(snapshot: Path, repo: str) -> str | None:
    """What a snapshot lacks, "" if it is complete; None if it isn't Qwen3."""
    try:
        ours = (snapshot / "config.json").is_file()
        missing = cache.missing_files(snapshot)
    except OSError as error:
        return f"can't be read: {error.strerror}" if _named_qwen3(repo) else None
    if not (_is_qwen3(snapshot) if ours else _named_qwen3(repo)):
        return None
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    return f"incomplete: {missing[0]}{more} missing" if missing else ""


def _snapshots(repository: Path) -> Iterator[tuple[str, Path]]:
    """The snapshots of a cached repository with their revisions; ``main`` is preferred."""
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


def _name_of(repo: str, revision: str) -> str:
    """The name that selects a repository and revision."""
    release = releases.of_repo(repo)
    if revision != "main":
        return f"{repo}@{revision}"
    return release.alias if release else repo


def _named_qwen3(repo: str) -> bool:
    return "qwen3" in repo.lower()


def _is_qwen3(folder: Path) -> bool:
    """Whether config.json, or if it is damaged the folder's name, names Qwen3."""
    try:
        if not (folder / "config.json").is_file():
            return False
        return read_config(folder).get("model_type") in ("qwen3", "qwen3_moe")
    except OSError:
        return False
    except ConfigError:
        return _named_qwen3(str(folder))


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
