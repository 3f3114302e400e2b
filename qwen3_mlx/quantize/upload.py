"""Uploads a result: large files first, then one commit, so no partial model is ever public.

Running an interrupted upload again resumes it: large files that arrived aren't sent twice. The
token from HF_TOKEN goes only to ``huggingface_hub``; messages quote nothing of the hub's response
but the HTTP status.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from qwen3_mlx.errors import HubError, OptionError, shown
from qwen3_mlx.hub.errors import upload_error

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SHARD = ".safetensors"

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
    """The files to upload: all but hidden ones, weights first."""
    files = (file for file in directory.iterdir() if not file.name.startswith("."))
    return sorted(files, key=lambda file: (file.suffix != _SHARD, file.name))


def upload(
    directory: Path,
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    on_progress: FileProgress | None = None,
) -> str:
    """Upload a finished result as one commit; returns its address. Raises `HubError`."""
    check_name(repo)
    secret = token()
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()  # ours shows the progress over all files
    api = HfApi(token=secret)
    files = files_of(directory)
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        if revision is not None and revision != "main":
            api.create_branch(repo, branch=revision, exist_ok=True)
        operations = [CommitOperationAdd(file.name, file) for file in files]
        for number, operation in enumerate(operations):
            if on_progress is not None:
                on_progress(operation.path_in_repo, number, len(files))
            if operation.path_in_repo.endswith(_SHARD):
                api.preupload_lfs_files(repo, [operation], revision=revision, free_memory=False)
        message = f"Convert with qwen3-mlx: {directory.name}"
        commit = api.create_commit(repo, operations, commit_message=message, revision=revision)
    except Exception as error:  # the network libraries raise many types
        raise upload_error(error, repo) from None  # the cause may quote a header
    return commit.commit_url
