"""Uploads a result: large files first, then one commit, so no partial model is ever public.

Running an interrupted upload again resumes it: large files that arrived aren't sent twice. The
token from HF_TOKEN goes only to ``huggingface_hub``; messages quote nothing of the hub's response
but the HTTP status.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from qwen3_mlx.errors import HubError, OptionError, shown
from qwen3_mlx.files import read_small
from qwen3_mlx.hub.errors import upload_error
from qwen3_mlx.quantize.card import renamed
from qwen3_mlx.quantize.checkpoint_entries import RECORD
from qwen3_mlx.quantize.plan import COPIED, INDEX

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SHARD = ".safetensors"
_CARD = "README.md"
_TERMS = ("LICENSE*", "NOTICE*")

FileProgress = Callable[[str, int, int], None]
"""Called with (file name, files done, total files)."""


def check_name(repo: str) -> None:
    """Raise `OptionError` unless `repo` is ``owner/name``."""
    if not _REPO.fullmatch(repo) or "--" in repo or ".." in repo:
        raise OptionError("--upload", got=shown(repo), expected="a repository, owner/name")


def token() -> str:
    """The token in HF_TOKEN. Raises `HubError` without one."""
    value = os.environ.get("HF_TOKEN", "").strip()
    if not value:
        hint = "make one with write permission at https://huggingface.co/settings/tokens"
        raise HubError("uploading needs a token in HF_TOKEN", hint=hint)
    return value


def files_of(directory: Path) -> list[Path]:
    """The files to upload, those in folders too: all but hidden ones, weights first."""

    def is_hidden(file: Path) -> bool:
        return any(part.startswith(".") for part in file.relative_to(directory).parts)

    files = (file for file in directory.rglob("*") if file.is_file() and not is_hidden(file))
    return sorted(files, key=lambda file: (file.suffix != _SHARD, file.relative_to(directory)))


def superseded(present: Iterable[str], sent: Iterable[str]) -> list[str]:
    """Names among `present` that a loader would read beside the `sent` files, or in their place.

    A ``model.safetensors`` of an earlier upload, for example, goes before shards and their index.
    """
    read = ("model*.safetensors", INDEX, *COPIED)
    return sorted(
        name
        for name in set(present) - set(sent)
        if any(fnmatch(name, one) for one in read)
        and "/" not in name
        and not any(fnmatch(name, one) for one in _TERMS)
    )


def upload(
    directory: Path,
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    on_progress: FileProgress | None = None,
    on_removed: Callable[[list[str]], None] | None = None,
) -> str:
    """Upload a finished result as one commit; returns its address. Raises `HubError`.

    The card names `repo` there, whatever it calls the model here. What an earlier upload left and
    a loader would read too is removed in the same commit, and told to `on_removed`.
    """
    check_name(repo)
    secret = token()
    from huggingface_hub import CommitOperationDelete, HfApi
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()  # ours shows the progress over all files
    api = HfApi(token=secret)
    try:
        adds = [_operation(file, directory, repo) for file in files_of(directory)]
        api.create_repo(repo, private=private, exist_ok=True)
        if private and not api.model_info(repo).private:
            raise _public(repo)  # one that is there stays as it is, whatever is asked for
        if revision is not None and revision != "main":
            api.create_branch(repo, branch=revision, exist_ok=True)
        present = api.list_repo_files(repo, revision=revision)
        gone = superseded(present, [operation.path_in_repo for operation in adds])
        if gone and revision in (None, "main") and RECORD not in present:
            raise _of_others(repo, gone)
        _send_weights(api, repo, revision, adds, on_progress)
        operations: list[CommitOperationAdd | CommitOperationDelete] = [*adds]
        operations += (CommitOperationDelete(name) for name in gone)
        message = f"Convert with qwen3-mlx: {directory.name}"
        commit = api.create_commit(repo, operations, commit_message=message, revision=revision)
    except HubError:
        raise
    except Exception as error:  # the network libraries raise many types
        raise upload_error(error, repo) from None  # the cause may quote a header
    if gone and on_removed is not None:
        on_removed(gone)
    return commit.commit_url


def _public(repo: str) -> HubError:
    """The error about a private upload to a repository that all can read."""
    return HubError(
        f"{repo} is there already, and public",
        got="--private",
        expected="a private repository, or a new one",
        hint=f"make it private at https://huggingface.co/{repo}/settings, or leave --private out",
    )


def _of_others(repo: str, names: list[str]) -> HubError:
    """The error about files that no conversion of ours has put into the repository."""
    return HubError(
        f"{repo} holds another model, which would be read in place of this one",
        got=", ".join(names),
        expected="a new repository, or one that a conversion was published to",
        hint="publish to another name, or to a branch: --revision mlx",
    )


def _operation(file: Path, directory: Path, repo: str) -> CommitOperationAdd:
    from huggingface_hub import CommitOperationAdd

    name = file.relative_to(directory).as_posix()
    if name != _CARD:
        return CommitOperationAdd(name, file)
    text = read_small(file).decode("utf-8", "surrogateescape")
    return CommitOperationAdd(name, renamed(text, repo).encode("utf-8", "surrogateescape"))


def _send_weights(
    api: HfApi,
    repo: str,
    revision: str | None,
    adds: list[CommitOperationAdd],
    on_progress: FileProgress | None,
) -> None:
    """Send what goes before the commit, file by file."""
    for number, operation in enumerate(adds):
        if on_progress is not None:
            on_progress(operation.path_in_repo, number, len(adds))
        if operation.path_in_repo.endswith(_SHARD):
            api.preupload_lfs_files(repo, [operation], revision=revision, free_memory=False)
