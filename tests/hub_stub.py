"""A small stand-in for the model hub's HTTP interface, on 127.0.0.1.

It answers what ``huggingface_hub`` asks when it downloads: repository and revision, file listing,
HEAD and GET of a file with ETag, commit and Range, and the hub's errors (missing, gated, private).
It can cut the connection in the middle of a file. Every request is kept in `HubStub.requests`.

    with HubStub() as hub:
        hub.add("owner/name", {"config.json": b"{}"})
        ... HF_ENDPOINT=hub.url ...
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

_API = re.compile(r"/api/models/([^/]+/[^/]+?)(?:/(revision|tree)/([^/]+))?/?")
_FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class Repo:
    """One repository: its files, and how it behaves."""

    files: dict[str, bytes]
    gated: bool = False
    private: bool = False
    cuts: dict[str, list[int]] = field(default_factory=dict)
    """Per file, after how many bytes each coming GET is cut off, until the list is used up."""

    @property
    def commit(self) -> str:
        """A commit that follows from the content."""
        digest = hashlib.sha1(usedforsecurity=False)
        for name, data in sorted(self.files.items()):
            digest.update(name.encode() + b"\0" + data)
        return digest.hexdigest()


@dataclass(frozen=True)
class Request:
    """A request that came in."""

    method: str
    path: str
    range: str | None
    token: str | None
    sent: int
    """Bytes of body sent back."""


class HubStub:
    """The server; use it as a context manager."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.requests: list[Request] = []
        self.tokens: set[str] = set()
        self.broken: int | None = None
        """An HTTP status to answer everything with."""
        stub = self

        class Handler(_Handler):
            hub = stub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def url(self) -> str:
        """What HF_ENDPOINT should be."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def add(self, name: str, files: dict[str, bytes] | Path, **behaviour: Any) -> Repo:
        """Serve `files` (or the files of a directory) as the repository `name`."""
        if isinstance(files, Path):
            files = {
                str(file.relative_to(files)): file.read_bytes()
                for file in files.rglob("*")
                if file.is_file()
            }
        repo = self.repos[name] = Repo(dict(files), **behaviour)
        return repo

    def fetched(self) -> list[str]:
        """The names of the files whose content was asked for, in order."""
        found = (_FILE.fullmatch(r.path) for r in self.requests if r.method == "GET")
        return [match[3] for match in found if match]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Refusal(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class _Handler(BaseHTTPRequestHandler):
    hub: HubStub
    protocol_version = "HTTP/1.1"
    _sent = 0

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: Any) -> None:
        pass

    def _token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    def _answer(self) -> None:
        self._sent = 0
        path = unquote(urlsplit(self.path).path)
        try:
            if self.hub.broken:
                raise _Refusal(self.hub.broken, "", "out of order")
            if match := _API.fullmatch(path):
                self._api(*match.groups())
            elif match := _FILE.fullmatch(path):
                self._file(*match.groups())
            else:
                raise _Refusal(404, "", "no such endpoint")
        except _Refusal as refusal:
            self._send(
                refusal.status,
                json.dumps({"error": str(refusal)}).encode(),
                {"X-Error-Code": refusal.code, "X-Error-Message": str(refusal)},
            )
        finally:
            self.hub.requests.append(
                Request(self.command, path, self.headers.get("Range"), self._token(), self._sent)
            )

    def _repo(self, name: str, revision: str | None, *, content: bool) -> Repo:
        repo = self.hub.repos.get(name)
        token = self._token()
        if token is not None and token not in self.hub.tokens:
            raise _Refusal(401, "", "Invalid credentials in Authorization header")
        if repo is None or (repo.private and token is None):
            # the hub does not tell strangers whether a repository exists
            raise _Refusal(401 if token is None else 404, "RepoNotFound", "Repository not found")
        if repo.gated and content and token is None:
            raise _Refusal(401, "GatedRepo", f"Access to model {name} is restricted.")
        if revision not in (None, "main", repo.commit):
            raise _Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repo

    def _api(self, name: str, verb: str | None, revision: str | None) -> None:
        repo = self._repo(name, revision, content=False)
        if verb == "tree":
            body: Any = [_entry(path, data) for path, data in sorted(repo.files.items())]
        else:
            siblings = [_sibling(path, data) for path, data in sorted(repo.files.items())]
            body = {"id": name, "modelId": name, "sha": repo.commit, "siblings": siblings}
            body |= {"private": repo.private, "gated": "auto" if repo.gated else False, "tags": []}
        self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _file(self, name: str, revision: str, path: str) -> None:
        repo = self._repo(name, revision, content=True)
        if path not in repo.files:
            raise _Refusal(404, "EntryNotFound", "Entry not found")
        data = repo.files[path]
        headers = {
            "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
            "X-Repo-Commit": repo.commit,
            "Accept-Ranges": "bytes",
        }
        status, start, end = 200, 0, len(data)
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            status, start = 206, int(asked[1])
            end = min(int(asked[2]) + 1, end) if asked[2] else end
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        cut = None
        if self.command == "GET" and repo.cuts.get(path):
            cut = repo.cuts[path].pop(0)
        self._send(status, data[start:end], headers, cut)

    def _send(
        self, status: int, body: bytes, headers: dict[str, str], cut: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        part = body if cut is None else body[:cut]
        self.wfile.write(part)
        self._sent = len(part)
        if cut is not None and cut < len(body):
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()


def _entry(path: str, data: bytes) -> dict[str, Any]:
    oid = hashlib.sha1(data, usedforsecurity=False).hexdigest()
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": oid}
    if path.endswith((".safetensors", ".bin")):
        digest = hashlib.sha256(data).hexdigest()
        entry["lfs"] = {"oid": digest, "size": len(data), "pointerSize": 134}
    return entry


def _sibling(path: str, data: bytes) -> dict[str, Any]:
    """A file as a model's description lists it, with ``?blobs=true``."""
    entry = _entry(path, data)
    found: dict[str, Any] = {"rfilename": path, "size": entry["size"], "blobId": entry["oid"]}
    if "lfs" in entry:
        lfs = entry["lfs"]
        found["lfs"] = {"sha256": lfs["oid"], "size": lfs["size"], "pointerSize": 134}
    return found
