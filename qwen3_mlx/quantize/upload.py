"""Uploads a result: large files first, then one commit, so no partial model is ever public.

What the hub would refuse in the end can be asked of it before the work. Running an interrupted
upload again resumes it: large files that arrived aren't sent twice. The token from HF_TOKEN goes
only to ``huggingface_hub``; messages quote nothing of the hub's response but the HTTP status.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen3_mlx.errors import HubError, OptionError, shown
from qwen3_mlx.files import is_utf8, read_small
from qwen3_mlx.hub.errors import refusal, upload_error
from qwen3_mlx.quantize.card import renamed
from qwen3_mlx.quantize.checkpoint_entries import RECORD, record_of
from qwen3_mlx.quantize.journal import DIGESTS
from qwen3_mlx.quantize.plan import COPIED, INDEX

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi

_REPO = re.compile(
    r"(?=[^/]{1,96}/)(?:[A-Za-z0-9](?:[\w.-]*\w)?)/(?=.{1,96}$)\w(?:[\w.-]*\w)?", re.A
)
_BRANCH = re.compile(r"[A-Za-z0-9_][\w./-]*")
_NO_BRANCH = re.compile(r"\.\.|//|/\.|[./]$|\.lock(/|$)")
_SHARD = ".safetensors"
_WEIGHTS = "model*.safetensors"
_CARD = "README.md"
_TERMS = ("LICENSE*", "NOTICE*")

FileProgress = Callable[[str, int, int], None]
"""Called with (file name, files done, total files)."""


def check_name(repo: str) -> None:
    """Raise `OptionError` unless `repo` is ``owner/name``, as the hub's own library takes it."""
    if not _REPO.fullmatch(repo) or "--" in repo or ".." in repo or repo.endswith(".git"):
        raise OptionError(
            "--upload",
            got=shown(repo),
            expected="a repository, owner/name",
            hint="letters, digits, and between them single - and . and _, at most 96",
        )


def check_revision(branch: str | None) -> None:
    """Raise `OptionError` unless `branch` is None or a branch's name, as git takes it."""
    if branch is not None and (not _BRANCH.fullmatch(branch) or _NO_BRANCH.search(branch)):
        hint = "for example: --revision mlx"
        raise OptionError("--revision", got=shown(branch), expected="a branch's name", hint=hint)


def token() -> str:
    """The token in HF_TOKEN. Raises `HubError` without one."""
    value = os.environ.get("HF_TOKEN", "").strip()
    if not value:
        raise HubError("uploading needs a token in HF_TOKEN", hint=_MAKE_ONE)
    if not value.isascii() or not value.isprintable() or " " in value:
        hint = "copy it again; it begins with hf_"  # no request could carry it
        got = "a character that no token has"
        raise HubError("HF_TOKEN is no token", got=got, expected="letters and digits", hint=hint)
    return value


_MAKE_ONE = "make one with write permission at https://huggingface.co/settings/tokens"


def check_first(repo: str, *, private: bool = False, revision: str | None = None) -> None:
    """Raise `HubError` for what the hub would refuse once the work is done; writes nothing.

    A hub that doesn't answer now may do so then, so it is no error.
    """
    secret = token()
    from huggingface_hub import HfApi

    api = HfApi(token=secret)
    with _only_refusals(repo):
        _check_rights(api.whoami(), repo)
    with _only_refusals(repo):
        info = api.model_info(repo)
        if private and not info.private:
            raise _public(repo)
        present = [file.rfilename for file in info.siblings or ()]
        if others := _weights_of_others(present, revision):
            raise _of_others(repo, others)


@contextmanager
def _only_refusals(repo: str) -> Iterator[None]:
    """Raise what the hub refuses as `HubError`; pass over a hub that doesn't answer."""
    try:
        yield
    except HubError:
        raise
    except Exception as error:  # the network libraries raise many types
        if found := refusal(error, repo):
            raise found from None  # the cause may quote a header


def _check_rights(account: Any, repo: str) -> None:
    """Raise `HubError` if what the hub says of the token rules out writing to `repo`.

    A fine-grained token says no more than the upload will: it may hide its organizations.
    """
    owner = repo.partition("/")[0]
    try:
        role = account["auth"]["accessToken"]["role"]
        names = [account["name"], *(one["name"] for one in account.get("orgs", ()))]
        is_member = owner.lower() in [name.lower() for name in names]
    except (AttributeError, KeyError, TypeError):
        return  # a mirror with answers of its own
    if role == "read":
        got, hint = "one that may only read", _MAKE_ONE
    elif role == "write" and not is_member:
        got, hint = f"one of {account['name']}", f"publish to {account['name']}/, or correct it"
    else:
        return
    raise HubError(
        f"the token in HF_TOKEN can't write to {repo}",
        got=got,
        expected=f"write permission for {owner}",
        hint=hint,
    )


def _weights_of_others(present: Iterable[str], revision: str | None) -> list[str]:
    """The weights on the main branch that no conversion of ours has put there."""
    names = list(present)
    if revision not in (None, "main") or RECORD in names:
        return []
    return sorted(name for name in names if fnmatch(name, _WEIGHTS))


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
    read = (_WEIGHTS, INDEX, *COPIED)
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
    adds = _operations(directory, repo)
    _check_unchanged(directory, adds)
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        if private and not api.model_info(repo).private:
            raise _public(repo)  # one that is there stays as it is, whatever is asked for
        if revision is not None and revision != "main":
            api.create_branch(repo, branch=revision, exist_ok=True)
        present = api.list_repo_files(repo, revision=revision)
        gone = superseded(present, [operation.path_in_repo for operation in adds])
        others = _weights_of_others(present, revision)
        if (gone or others) and revision in (None, "main") and RECORD not in present:
            raise _of_others(repo, sorted({*gone, *others}))
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


def _check_unchanged(directory: Path, adds: Iterable[CommitOperationAdd]) -> None:
    """Raise `HubError` if weights aren't the bytes that the conversion wrote: a disk may err."""
    kept = record_of(directory).get(DIGESTS)
    written = kept if isinstance(kept, dict) else {}
    for operation in adds:
        name, got = operation.path_in_repo, operation.upload_info.sha256.hex()
        if written.get(name, got) != got:
            raise HubError(
                f"not published: {directory / name} is not the file that was converted",
                got=f"sha256 {got}",
                expected=written[name],
                hint="run the same command with --force: it converts again what was changed",
            )


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


def _operations(directory: Path, repo: str) -> list[CommitOperationAdd]:
    """The files to add. Raises `HubError` for one that can't be sent, whoever tries again."""
    hint = f"rename it, give yourself access, or move it out of {directory}"
    files = files_of(directory)
    if odd := next((file for file in files if not is_utf8(file.relative_to(directory))), None):
        raise HubError("not published: a file's name is no UTF-8", got=shown(odd), hint=hint)
    try:
        return [_operation(file, directory, repo) for file in files]
    except OSError as error:
        what, got = f"not published: {error.filename} can't be read", error.strerror or str(error)
        raise HubError(what, got=got, hint=hint) from None


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
