"""Finds a conversion's source: on this machine, in the hub's cache, or on the hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from qwen3_mlx.cli.terminal.screen import Screen
from qwen3_mlx.errors import OptionError
from qwen3_mlx.files import expanded, resolved

if TYPE_CHECKING:
    from qwen3_mlx.hub.remote_files import RemoteFiles


def check_out(out: Path | None) -> None:
    """Raise `OptionError` if the user's `out` is no place, before anything is downloaded."""
    if out is not None:
        from qwen3_mlx.quantize.target_check import check_place

        check_place(out)


def remote(name: str, out: Path, screen: Screen) -> RemoteFiles | None:
    """A reader that fetches a repository's files one by one as they are needed.

    None if the source is on this machine or GGUF, usually a single file. Raises as `resolve`.
    """
    from qwen3_mlx.hub import resolve

    if resolve.find_local(name) is not None:
        return None
    source = resolve.parse(name)
    if not source.repo or source.variant or "gguf" in source.repo.lower():
        return None
    from qwen3_mlx.hub.remote_files import RemoteFiles

    place = out.with_name(f"{out.name}.source")
    _check_in_the_way(place)
    screen.note(f"fetching {name} file by file; none is kept (--keep-source keeps them)")
    return RemoteFiles(source, place)


def _check_in_the_way(place: Path) -> None:
    """Raise `OptionError` if `place`, which is removed in the end, holds anything of the user's."""
    from qwen3_mlx.quantize.checkpoint_entries import entries_of

    try:
        names = [entry.name for entry in entries_of(place)] if place.exists() else []
    except OSError:
        names = [""]
    own = ("headers", "whole", "arriving")
    if place.is_symlink() or any(n not in own and not n.startswith("models--") for n in names):
        hint = "move it away, or name another --out: SOURCE is fetched to there"
        raise OptionError("something is in the way", got=str(place), expected="nothing", hint=hint)


def find(name: str, local_only: bool, screen: Screen) -> Path:
    """The directory of the source, downloaded unless `local_only`. Raises `HubError`."""
    from qwen3_mlx.errors import HubError
    from qwen3_mlx.hub import resolve

    found = resolve.find_local(name)
    if found is not None:
        return found
    if local_only:
        hint = f"a dry run asks nobody; fetch it first: hf download {name.partition('@')[0]}"
        raise HubError("the source is not on this machine", got=name, hint=hint)
    screen.note(f"downloading {name}; it is kept for the next time")
    return resolve.resolve(name)


def stem(name: str) -> str:
    """What a result of the source `name` is called by default, without its recipe."""
    last = Path(name).name
    if last in ("", "..") or last.startswith("~"):  # a place, not a name
        return resolved(expanded(name)).name
    return re.split("[@:]", last)[0].removesuffix(".gguf")


def original(name: str) -> str:
    """`name`, or for an alias Qwen's original repository."""
    from qwen3_mlx.hub import releases

    if Path(name).is_dir():
        return name
    release = releases.find(name)
    return f"Qwen/{release.name}" if release is not None else name
