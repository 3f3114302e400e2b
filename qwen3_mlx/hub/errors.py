"""Translates errors of ``huggingface_hub`` to `HubError`, for downloads and uploads.

No message contains a token: none quotes a header or the body of a response.
"""

from __future__ import annotations

import difflib
import errno
import os
import re
import ssl
from collections.abc import Iterator

from qwen3_mlx.errors import HubError, without_secrets
from qwen3_mlx.hub import releases
from qwen3_mlx.hub.cache import Source, cache_dir, missing_files, snapshot_dir


class HubUnreachable(HubError):
    """The hub can't be reached: no network, or HF_HUB_OFFLINE."""


def download_error(error: Exception, source: Source) -> HubError:
    """The `HubError` for an error of a download."""
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name = source.repo
    if found := _middlebox_error(error):
        return found
    if isinstance(error, GatedRepoError):
        hint = f"accept its terms at https://huggingface.co/{name}, then: hf auth login"
        return HubError(f"{name} is gated", got="no access with this login", hint=hint)
    if isinstance(error, RepositoryNotFoundError):
        where = f"at HF_ENDPOINT ({mirror})" if (mirror := _mirror()) else "on the hub"
        return HubError(f"no such repository {where}", got=name, hint=_missing_repo_hint(name))
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
        return _hub_failed(status, "the hub has a problem of its own; try again later")
    if isinstance(error, LocalEntryNotFoundError) or _is_network(error):
        return _unreachable(source)
    got = f"{type(error).__name__}: {without_secrets(str(error))}"[:300]
    return HubError(f"{name} can't be downloaded", got=got)


def _middlebox_error(error: Exception) -> HubError | None:
    """The error if a certificate, a proxy or HF_ENDPOINT prevents the connection, else None."""
    for cause in _causes(error):
        text, kind = str(cause), type(cause).__name__
        if isinstance(cause, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY_FAILED" in text:
            hint = (
                "a proxy of your company signs in the hub's place: set SSL_CERT_FILE to a file with"
                " its certificate (PEM), or ask who runs it"
            )
            return HubUnreachable(f"the certificate of {_host()} is not trusted", hint=hint)
        if kind == "ProxyError" or _status(cause) == 407:
            named = [name for name in _PROXIES if os.environ.get(name)]
            hint = f"check {', '.join(named) or 'the proxy that the system names'}, or NO_PROXY"
            return HubUnreachable("the proxy refuses, or can't be reached", hint=hint)
        if kind in ("UnsupportedProtocol", "MissingSchema", "InvalidURL", "InvalidSchema"):
            hint = "a mirror's address begins with https://; unset HF_ENDPOINT for the hub itself"
            return HubError("HF_ENDPOINT is no address", got=repr(_mirror()), hint=hint)
    return None


_PROXIES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and its chain of causes, each once."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _mirror() -> str:
    """HF_ENDPOINT without credentials; "" for the hub itself."""
    address = os.environ.get("HF_ENDPOINT", "").strip()
    return re.sub(r"//[^/@]*@", "//", address)


def _host() -> str:
    return _mirror() or "the hub"


def refusal(error: Exception, repo: str) -> HubError | None:
    """The error if the hub refuses the token, or nobody may ask it; None for other trouble."""
    owner, status = repo.partition("/")[0], _status(error)
    if status in (401, 403):
        hint = f"HF_TOKEN needs write permission for {owner}"
        return HubError(f"the hub refuses to write to {repo}", got=f"HTTP {status}", hint=hint)
    if status is None and _is_offline():
        return HubUnreachable("uploading needs the network", got="HF_HUB_OFFLINE is set")
    return None


def upload_error(error: Exception, repo: str) -> HubError:
    """The `HubError` for an error of an upload. It doesn't quote the cause."""
    again = "run the same command again: what has arrived is not sent twice"
    owner, status = repo.partition("/")[0], _status(error)
    if found := refusal(error, repo):
        return found
    if status == 404:
        hint = f"does {owner} exist, and may this token see it?"
        return HubError(f"no such repository: {repo}", got="HTTP 404", hint=hint)
    if status:
        return _hub_failed(status, again)
    return HubError("the upload broke off", got=type(_root(error)).__name__, hint=again)


def _hub_failed(status: int, hint: str) -> HubError:
    return HubError("the hub answered with an error", got=f"HTTP {status}", hint=hint)


def _status(error: BaseException | None) -> int | None:
    """The HTTP status of an error or of the nearest cause that has one."""
    for cause in _causes(error):
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
    return None


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _is_network(error: Exception) -> bool:
    # huggingface_hub uses httpx, httpx2 or requests, depending on its version.
    modules = ("httpx", "httpcore", "requests", "urllib3")
    return isinstance(error, ConnectionError | TimeoutError) or any(
        kind.__module__.startswith(modules) for kind in type(error).__mro__
    )


def _is_offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _unreachable(source: Source) -> HubUnreachable:
    """The error without a network; it lists the files that are missing here."""
    partial, offline = snapshot_dir(source), _is_offline()
    where = f"HF_ENDPOINT ({_mirror()})" if _mirror() else "the hub"
    why = "HF_HUB_OFFLINE is set" if offline else f"{where} can't be reached"
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
    close = difflib.get_close_matches(repo, known, n=3, cutoff=0.7)
    if close:
        return f"did you mean {', '.join(close)}?"
    return "check the spelling; a private repository needs: hf auth login"
