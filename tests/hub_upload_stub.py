"""The stand-in for the hub, with what ``huggingface_hub`` asks when it uploads.

Creating a repository or a branch, choosing how each file travels, Git LFS (batch, PUT, verify) and
the commit. Tokens in `writers` may write to any owner but those in `foreign`; a PUT can be cut off
after so many bytes. What was committed lies in `repos` like any other repository, by branch.
"""

from __future__ import annotations

import base64
import json
import re
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote, urlsplit

from tests import hub_stub
from tests.hub_stub import HubStub, Repo, Request

_PREUPLOAD = re.compile(r"/api/models/([^/]+/[^/]+)/preupload/([^/]+)")
_COMMIT = re.compile(r"/api/models/([^/]+/[^/]+)/commit/([^/]+)")
_BRANCH = re.compile(r"/api/models/([^/]+/[^/]+)/branch/([^/]+)")
_BATCH = re.compile(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch")
_OBJECT = re.compile(r"/lfs/([0-9a-f]{64})")


class UploadStub(HubStub):
    """The server; use it as a context manager."""

    def __init__(self) -> None:
        super().__init__()
        self.writers: set[str] = set()
        self.foreign: set[str] = set()
        """Owners that nobody here may write for."""
        self.account: dict[str, Any] | None = None
        """What is said of who has the token; None: this hub doesn't say."""
        self.objects: dict[str, bytes] = {}
        """Large files that arrived, by digest, committed or not."""
        self.branches: dict[tuple[str, str], dict[str, bytes]] = {}
        self.commits: list[tuple[str, str]] = []
        self.cuts: list[int] = []
        """After how many bytes each coming PUT is cut off, until the list is used up."""
        self.always_cut: int | None = None
        stub = self

        class Handler(_Handler):
            hub = stub

        self._server.RequestHandlerClass = Handler

    def sent(self) -> list[str]:
        """Digests of the large files that were sent, in order."""
        found = (_OBJECT.fullmatch(r.path) for r in self.requests if r.method == "PUT")
        return [match[1] for match in found if match]


class _Handler(hub_stub._Handler):
    hub: UploadStub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        try:
            if self.hub.broken:
                raise hub_stub._Refusal(self.hub.broken, "", "out of order")
            answer = self._post(path, body)
            self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})
        except hub_stub._Refusal as refusal:
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": str(refusal)}
            answer = {"error": str(refusal)}
            if refusal.status == 409:  # the hub says where the repository is
                answer["url"] = f"{self.hub.url}/{refusal.code}"
            self._send(refusal.status, json.dumps(answer).encode(), headers)
        finally:
            self.hub.requests.append(Request("POST", path, None, self._token(), self._sent))

    def do_PUT(self) -> None:
        path = urlsplit(self.path).path
        match = _OBJECT.fullmatch(path)
        size = int(self.headers.get("Content-Length") or 0)
        cut = self.hub.cuts.pop(0) if self.hub.cuts else self.hub.always_cut
        self.hub.requests.append(Request("PUT", path, None, self._token(), 0))
        if cut is not None:
            self.rfile.read(min(cut, size))
            self.close_connection = True
            self.connection.close()
            return
        assert match is not None
        self.hub.objects[match[1]] = self.rfile.read(size)
        self._send(200, b"", {})

    def handle(self) -> None:
        with suppress(ConnectionError, ValueError):  # a connection that was cut
            BaseHTTPRequestHandler.handle(self)

    def finish(self) -> None:
        with suppress(ConnectionError, ValueError):
            super().finish()

    def _post(self, path: str, body: bytes) -> Any:
        if path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}
        if path == "/lfs/verify":
            return {}
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if match := _BRANCH.fullmatch(path):
            self._may_write(match[1])
            return {"ok": bool(self.hub.branches.setdefault((match[1], match[2]), {}) is not None)}
        if match := _PREUPLOAD.fullmatch(path):
            self._may_write(match[1])
            return {"files": [_mode(file) for file in json.loads(body)["files"]]}
        if match := _BATCH.fullmatch(path):
            self._may_write(match[1])
            objects = [self._object(entry) for entry in json.loads(body)["objects"]]
            return {"transfer": "basic", "objects": objects}
        if match := _COMMIT.fullmatch(path):
            return self._commit(match[1], match[2], body)
        raise hub_stub._Refusal(404, "", "no such endpoint")

    def do_GET(self) -> None:
        if urlsplit(self.path).path == "/api/whoami-v2" and self.hub.account is not None:
            if self._token() not in self.hub.tokens:
                self._send(401, b'{"error": "Invalid user token."}', {})
                return
            self._send(200, json.dumps(self.hub.account).encode(), {})
            return
        super().do_GET()

    def _api(self, name: str, verb: str | None, revision: str | None) -> None:
        held = self.hub.branches.get((name, revision or "main"))
        if verb != "tree" or held is None:
            super()._api(name, verb, revision)
            return
        body = [hub_stub._entry(path, data) for path, data in sorted(held.items())]
        self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _may_write(self, repo: str) -> None:
        token = self._token()
        if token is None:
            raise hub_stub._Refusal(401, "", "Invalid username or password.")
        if token not in self.hub.writers or repo.partition("/")[0] in self.hub.foreign:
            raise hub_stub._Refusal(403, "", f"You don't have the rights with {token}")
        if repo not in self.hub.repos and "create" not in self.path:
            raise hub_stub._Refusal(404, "RepoNotFound", "Repository not found")

    def _create(self, asked: dict[str, Any]) -> dict[str, Any]:
        repo = "/".join(filter(None, (asked.get("organization"), asked["name"])))
        self._may_write(repo)
        if repo in self.hub.repos:
            raise hub_stub._Refusal(409, repo, "You already created this model repo")
        private = bool(asked.get("private")) or asked.get("visibility") == "private"
        self.hub.repos[repo] = Repo({}, private=private)
        return {"url": f"{self.hub.url}/{repo}", "name": repo, "id": "1"}

    def _object(self, entry: dict[str, Any]) -> dict[str, Any]:
        if entry["oid"] in self.hub.objects:
            return entry
        upload = {"href": f"{self.hub.url}/lfs/{entry['oid']}"}
        verify = {"href": f"{self.hub.url}/lfs/verify"}
        return entry | {"actions": {"upload": upload, "verify": verify}}

    def _commit(self, repo: str, branch: str, body: bytes) -> dict[str, Any]:
        self._may_write(repo)
        files: dict[str, bytes] = {}
        gone: list[str] = []
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif entry["key"] == "deletedFile":
                gone.append(value["path"])
        held = self.hub.branches.setdefault((repo, branch), {})
        held.update(files)
        for name in gone:
            del held[name]
        if branch == "main":
            self.hub.repos[repo].files = held
        self.hub.commits.append((repo, branch))
        oid = "c" * 40
        url = f"{self.hub.url}/{repo}/commit/{oid}"
        return {"commitUrl": url, "commitOid": oid, "pullRequestUrl": None, "hookOutput": ""}


def _mode(file: dict[str, Any]) -> dict[str, Any]:
    large = file["path"].endswith(".safetensors") or file["size"] > 10_000_000
    mode = "lfs" if large else "regular"
    return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None}
