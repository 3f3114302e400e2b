"""Publishing a result: each large file first, then one commit, so no half model is ever public.

An interrupted upload is resumed by running it again: large files that arrived are not sent twice.
The token comes from HF_TOKEN and goes to ``huggingface_hub`` alone; no message here quotes what
the hub or the library said, except for the HTTP status.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qwen3_mlx.errors import HubError, OptionError

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SHARD = ".safetensors"

Progress = Callable[[str, int, int], None]
"""Called with a file's name, files done, and files in all."""


def check_name(repo: str) -> None:
    """Raise `OptionError` unless `repo` is ``owner/name``."""
    if not _REPO.fullmatch(repo) or "--" in repo or ".." in repo:
        raise OptionError("--upload", got=repr(repo), expected="a repository, owner/name")


def token() -> str:
    """The token in HF_TOKEN. Raises `HubError` without one."""
    value = os.environ.get("HF_TOKEN", "").strip()
    if not value:
        hint = "make one with write permission at https://huggingface.co/settings/tokens"
        raise HubError("uploading needs a token in HF_TOKEN", hint=hint)
    return value


def files_of(directory: Path) -> list[Path]:
    """What is uploaded: every plain file of the result, weights first."""
    files = (file for file in directory.iterdir() if not file.name.startswith("."))
    return sorted(files, key=lambda file: (file.suffix != _SHARD, file.name))


def upload(
    directory: Path,
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    on_progress: Progress | None = None,
) -> str:
    """Upload a finished result as one commit; returns its address. Raises `HubError`."""
    check_name(repo)
    secret = token()
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()  # ours says what is left of all
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
    except Exception as error:  # a network stack's errors are many; each becomes one of ours
        raise _translate(error, repo) from None  # the cause may quote a header
    return commit.commit_url


def _translate(error: Exception, repo: str) -> HubError:
    """Our error for one of ``huggingface_hub``. Never holds what the other side said."""
    again = "run the same command again: what has arrived is not sent twice"
    status = _status(error)
    if status in (401, 403):
        hint = f"HF_TOKEN needs write permission for {repo.partition('/')[0]}"
        return HubError(f"the hub refuses to write to {repo}", got=f"HTTP {status}", hint=hint)
    if status == 404:
        hint = f"does {repo.partition('/')[0]} exist, and may this token see it?"
        return HubError(f"no such repository: {repo}", got="HTTP 404", hint=hint)
    if status:
        return HubError("the hub answered with an error", got=f"HTTP {status}", hint=again)
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return HubError("uploading needs the network", got="HF_HUB_OFFLINE is set")
    return HubError("the upload broke off", got=type(_root(error)).__name__, hint=again)


def _status(error: BaseException | None) -> int | None:
    """The HTTP status behind an error, looked for along its causes."""
    while error is not None:
        response: Any = getattr(error, "response", None)
        status = getattr(response, "status_code", None)
        if isinstance(status, int):
            return status
        error = error.__cause__ or error.__context__
    return None


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
