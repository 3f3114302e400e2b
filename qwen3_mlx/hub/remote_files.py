"""A repository's checkpoint as a folder whose weight files are fetched only while they are read.

Small files are fetched at once. A weight file begins as a sparse file of full size with only the
header; `require` replaces it by the fetched file, and drops the least recently used ones, whose
small tensors stay. Fetched files are checked against the hub's digests; an interrupted fetch
resumes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from qwen3_mlx.errors import CheckpointError, HubError, Qwen3Error
from qwen3_mlx.hub.cache import MODEL_FILES, Source
from qwen3_mlx.hub.download import NOTICES
from qwen3_mlx.hub.errors import download_error
from qwen3_mlx.hub.ranged import first_bytes
from qwen3_mlx.hub.weight_files import INDEX, choose

MAX_FETCHED = 3
"""Fetched weight files on disk besides the pinned ones: a layer may span two, and the converter
reads ahead."""
SMALL = 2**20
"""Largest tensor, in bytes, that stays when its file is dropped."""


class RemoteFiles:
    """The files of one commit in `directory`, below `root`."""

    def __init__(self, source: Source, root: Path) -> None:
        """Fetch the listing, the small files and the headers. Raises `HubError`."""
        try:
            self._open(source, root)
        except Qwen3Error:
            raise
        except Exception as error:  # the network libraries raise many types
            raise download_error(error, source) from None

    def _open(self, source: Source, root: Path) -> None:
        from huggingface_hub import HfApi, snapshot_download

        info = HfApi().model_info(source.repo, revision=source.revision, files_metadata=True)
        self.source, self.commit = source, info.sha or source.revision
        self.root, self.fetches = root, 0
        # The layout of the hub's cache, from which other code reads repository and commit.
        repository = root / f"models--{source.repo.replace('/', '--')}"
        self.directory = repository / "snapshots" / self.commit
        listed = info.siblings or []
        # Files in subfolders don't belong to the checkpoint.
        files = {file.rfilename: file for file in listed if "/" not in file.rfilename}
        small = [name for name in MODEL_FILES if not name.endswith(".safetensors")]
        snapshot_download(
            source.repo,
            revision=self.commit,
            allow_patterns=[*small, *NOTICES],
            local_dir=self.directory,
        )
        self.sizes: dict[str, int] = {}
        self.digests: dict[str, str] = {}
        for name in self._weight_names(set(files)):
            file = files[name]
            self.sizes[name] = file.size or 0
            self.digests[name] = file.lfs.sha256 if file.lfs else f"git {file.blob_id}"
        self._fetched: dict[str, None] = {}
        self._pinned: set[str] = set()
        for name in self.sizes:
            self._make_stub(name)
            if self._whole(name).is_file():
                self._show(name, self._whole(name))
                self._fetched[name] = None

    def _weight_names(self, present: set[str]) -> list[str]:
        import json

        indexed = None
        if (self.directory / INDEX).is_file():
            indexed = list(json.loads((self.directory / INDEX).read_text())["weight_map"].values())
        chosen = choose(present, indexed)
        if chosen.missing or not chosen.names:
            got = ", ".join(chosen.missing[:5]) or "no safetensors"
            raise HubError(f"{self.source.repo} is no model this package can load", got=got)
        return list(chosen.names)

    @property
    def identity(self) -> str:
        """A digest of all weight files."""
        listed = sorted(f"{name} {digest}" for name, digest in self.digests.items())
        return hashlib.sha256("\n".join(listed).encode()).hexdigest()

    def require(self, tensors: Iterable[tuple[Path, int]]) -> None:
        """Fetch the files of these tensors, given as (file, bytes). Raises `HubError`."""
        names = [f.name for f, size in tensors if size > SMALL or not self._has_small(f.name)]
        needed = [name for name in dict.fromkeys(names) if name in self.sizes]
        for name in needed:
            if name in self._fetched:
                self._fetched[name] = self._fetched.pop(name)  # the latest last
        for name in needed:
            if name not in self._fetched:
                self._drop(MAX_FETCHED - 1, needed)
                self._fetch(name)
                self._fetched[name] = None

    def pin(self, files: Iterable[Path]) -> None:
        """Never drop `files` once fetched: they are needed at the beginning and at the end."""
        self._pinned |= {file.name for file in files}

    @property
    def most_bytes(self) -> int:
        """The most bytes of disk that fetched weight files take."""
        largest = max(self.sizes.values())
        return (MAX_FETCHED + len(self._pinned)) * largest

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.root, ignore_errors=True)

    def _drop(self, most: int, needed: list[str]) -> None:
        loose = [n for n in self._fetched if n not in self._pinned and n not in needed]
        for name in loose[: max(len(self._fetched.keys() - self._pinned) - most, 0)]:
            self._show(name, self._stub(name))
            self._whole(name).unlink()
            del self._fetched[name]

    def _fetch(self, name: str) -> None:
        """Fetch a whole file to a temporary folder, check it, and move it into place."""
        from huggingface_hub import hf_hub_download

        folder = self.root / "arriving"
        try:
            got = hf_hub_download(self.source.repo, name, revision=self.commit, local_dir=folder)
        except Exception as error:
            raise download_error(error, self.source) from None
        self.fetches += 1
        self._check(name, Path(got))
        self._whole(name).parent.mkdir(parents=True, exist_ok=True)
        Path(got).replace(self._whole(name))
        shutil.rmtree(folder, ignore_errors=True)
        self._keep_small(name)
        self._show(name, self._whole(name))

    def _check(self, name: str, file: Path) -> None:
        with file.open("rb") as stream:
            if self.digests[name].startswith("git "):
                return  # a small file, for which the hub has no SHA-256
            got = hashlib.file_digest(stream, "sha256").hexdigest()
        if got != self.digests[name]:
            file.unlink()
            raise CheckpointError(
                f"{name} is not the file that was published",
                got=f"sha256 {got}",
                expected=self.digests[name],
                hint="run the same command again: it is fetched anew",
            )

    def _stub(self, name: str) -> Path:
        return self.root / "headers" / name

    def _whole(self, name: str) -> Path:
        return self.root / "whole" / name

    def _make_stub(self, name: str) -> None:
        """Fetch the header into a sparse file of full size."""
        from huggingface_hub import hf_hub_url

        stub = self._stub(name)
        if not stub.is_file():
            url = hf_hub_url(self.source.repo, name, revision=self.commit)
            data = first_bytes(url, min(2**16, self.sizes[name]))
            end = min(8 + int.from_bytes(data[:8], "little"), self.sizes[name], 2**27)
            if end > len(data):
                data = first_bytes(url, end)
            stub.parent.mkdir(parents=True, exist_ok=True)
            part = stub.with_name(f".{name}.part")
            with part.open("wb") as stream:
                stream.write(data[:end])
                stream.truncate(self.sizes[name])
            part.replace(stub)
        self._show(name, stub)

    def _show(self, name: str, file: Path) -> None:
        """Point the folder's link `name` to `file`, atomically."""
        link = self.directory / name
        part = link.with_name(f".{name}.link")
        part.unlink(missing_ok=True)
        part.symlink_to(os.path.relpath(file, link.parent))
        part.replace(link)

    def _keep_small(self, name: str) -> None:
        """Copy small tensors to the stub: norms are needed long after their file is dropped."""
        import json

        with self._whole(name).open("rb") as stream, self._stub(name).open("r+b") as stub:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            for entry in header.values():
                start, end = entry["data_offsets"]
                if end - start <= SMALL:
                    stream.seek(8 + length + start)
                    stub.seek(8 + length + start)
                    stub.write(stream.read(end - start))
        self._stub(name).with_name(f"{name}.small").touch()

    def _has_small(self, name: str) -> bool:
        """Whether the file's small tensors are in its stub."""
        return self._stub(name).with_name(f"{name}.small").is_file()
