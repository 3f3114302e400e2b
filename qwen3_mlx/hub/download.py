"""Asking the hub: whole snapshots, or config and headers alone; its errors become ours."""

from __future__ import annotations

import difflib
import errno
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen3_mlx.errors import HubError
from qwen3_mlx.hub import releases
from qwen3_mlx.hub.cache import (
    MODEL_FILES,
    REQUIRED,
    Source,
    cache_dir,
    missing_files,
    snapshot_dir,
)

NOTICES = ("README*", "LICENSE*", "LICENCE*", "NOTICE*")


class HubUnreachable(HubError):
    """There is no way to the hub: no network, or HF_HUB_OFFLINE."""


def snapshot(source: Source) -> Path:
    """Download a repository's model files to the hub's cache; an unfinished download resumes.

    Progress is drawn on stderr. Raises `HubError`.
    """
    from huggingface_hub import snapshot_download

    try:
        found = Path(
            snapshot_download(
                source.repo,
                revision=source.revision,
                allow_patterns=[*MODEL_FILES, *NOTICES],
            )
        )
    except Exception as error:  # a network stack's errors are many; each becomes one of ours
        raise _translate(error, source) from error
    missing = [name for name in missing_files(found) if name in REQUIRED or "safetensors" in name]
    if missing:
        raise HubError(
            f"{source.repo} is no model this package can load",
            got=f"no {', '.join(missing)}",
            expected="config.json, tokenizer files and safetensors weights",
            hint="take a repository in MLX or Hugging Face safetensors format, such as "
            f"{releases.OWNER}/Qwen3-8B-4bit (alias 8b)",
        )
    return found


def _translate(error: Exception, source: Source) -> HubError:
    """Our error for one of ``huggingface_hub``. Never holds a token: no header, no body."""
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name = source.repo
    if isinstance(error, GatedRepoError):
        hint = f"accept its terms at https://huggingface.co/{name}, then: hf auth login"
        return HubError(f"{name} is gated", got="no access with this login", hint=hint)
    if isinstance(error, RepositoryNotFoundError):
        return HubError("no such repository on the hub", got=name, hint=_missing_repo_hint(name))
    if isinstance(error, RevisionNotFoundError):
        what = f"{name} has no such revision"
        return HubError(what, got=source.revision, hint="leave @revision away for the newest")
    status = _status(error)
    if status == 401:
        hint = "the login was refused; renew it with: hf auth login (or correct HF_TOKEN)"
        return HubError(f"no access to {name}", got="HTTP 401", hint=hint)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        hint = f"free some space, or set HF_HOME to another disk (now {cache_dir()})"
        return HubError("the disk is full", got=str(cache_dir()), hint=hint)
    if status:
        hint = "the hub has a problem of its own; try again later"
        return HubError("the hub answered with an error", got=f"HTTP {status}", hint=hint)
    if isinstance(error, LocalEntryNotFoundError) or _is_network(error):
        return _unreachable(source)
    return HubError(f"{name} can't be downloaded", got=f"{type(error).__name__}: {error}")


def _status(error: BaseException | None) -> int | None:
    """The HTTP status behind an error, looked for along its causes."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
        error = error.__cause__
    return None


def _is_network(error: Exception) -> bool:
    # httpx, httpx2 or requests, by version of huggingface_hub; none is a dependency of ours
    modules = ("httpx", "httpcore", "requests", "urllib3")
    return isinstance(error, ConnectionError | TimeoutError) or any(
        kind.__module__.startswith(modules) for kind in type(error).__mro__
    )


def _unreachable(source: Source) -> HubUnreachable:
    """No network: say what is missing of a half-downloaded snapshot, and that it resumes."""
    partial = snapshot_dir(source)
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    why = "HF_HUB_OFFLINE is set" if offline else "the hub can't be reached"
    again = "unset HF_HUB_OFFLINE" if offline else "check the network"
    if partial is None:
        hint = f"{again}; the bundled model needs none: qwen3-mlx chat demo"
        return HubUnreachable(f"{source.repo} is not on this machine, and {why}", hint=hint)
    missing = missing_files(partial)
    listed = ", ".join(missing[:5]) + (" …" if len(missing) > 5 else "")
    return HubUnreachable(
        f"{source.repo} is on this machine only in part, and {why}",
        got=f"{len(missing)} files missing: {listed}" if missing else "an unfinished download",
        hint=f"{again} and run the same command again: the download resumes",
    )


def _missing_repo_hint(repo: str) -> str:
    known = [release.repo for release in releases.RELEASES if release.repo != repo]
    near = difflib.get_close_matches(repo, known, n=3, cutoff=0.7)
    if near:
        return f"did you mean {', '.join(near)}?"
    return "check the spelling; a private repository needs: hf auth login"


@dataclass(frozen=True, slots=True)
class Tensor:
    """A remote tensor: type as safetensors spells it, shape, bytes."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True, slots=True)
class Description:
    """What can be known of a model without its weights."""

    where: str
    config: dict[str, Any]
    tensors: dict[str, Any] | None
    """Each tensor's dtype, shape and nbytes by name; None where there are no weights to ask."""


def describe(source: Source) -> Description:
    """Config and safetensors headers of a repository, by ranged requests: some kilobytes.

    A released model is described from its known shape if the hub can't be reached.
    Raises `HubError`.
    """
    try:
        return _ask_hub(source)
    except HubUnreachable:
        release = releases.of_repo(source.repo)
        if release is None:
            raise
        where = f"{source.repo}: the published shape at 4 bits, as the hub can't be asked"
        return Description(where, release.config(), None)


def _ask_hub(source: Source) -> Description:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import NotASafetensorsRepoError

    api = HfApi()
    try:
        # asked first because it fails at once without a network; the others retry for 45 s
        commit = api.model_info(source.repo, revision=source.revision).sha
        file = api.hf_hub_download(source.repo, "config.json", revision=commit)
        config = json.loads(Path(file).read_text("utf-8"))
        try:
            metadata = api.get_safetensors_metadata(source.repo, revision=commit)
        except NotASafetensorsRepoError:
            return Description(f"{source.repo} (on the hub)", config, None)
    except Exception as error:
        raise _translate(error, source) from error
    tensors = {
        name: Tensor(info.dtype, tuple(info.shape), info.data_offsets[1] - info.data_offsets[0])
        for shard in metadata.files_metadata.values()
        for name, info in shard.tensors.items()
    }
    return Description(f"{source.repo} (on the hub, not downloaded)", config, tensors)
