"""A repository's checkpoint as a folder whose weight files are here only while they are read.

Small files are fetched at once. Each weight file begins as its header alone, in a file of its full
size that takes no space; `require` puts the whole one in its place, and takes away those not asked
for lately. Small tensors stay when a file goes. What was fetched is held to the hub's digest, and
a fetch that broke off goes on where it was.
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

HELD = 3
"""Whole weight files kept at a time, besides those that are pinned: a layer may lie in two, and
the converter reads ahead."""
SMALL = 2**20
"""Bytes of a tensor that stays when its file goes."""


class RemoteFiles:
    """The files of one commit, in `directory`, which lies below `root`."""

    def __init__(self, source: Source, root: Path) -> None:
        """Ask for the listing, fetch the small files and the headers. Raises `HubError`."""
        try:
            self._open(source, root)
        except Qwen3Error:
            raise
        except Exception as error:  # a network stack's errors are many
            raise download_error(error, source) from None

    def _open(self, source: Source, root: Path) -> None:
        from huggingface_hub import HfApi, snapshot_download

        info = HfApi().model_info(source.repo, revision=source.revision, files_metadata=True)
        self.source, self.commit = source, info.sha or source.revision
        self.root, self.fetches = root, 0
        # laid out as the hub's cache is, so that its readers know repository and commit
        repository = root / f"models--{source.repo.replace('/', '--')}"
        self.directory = repository / "snapshots" / self.commit
        listed = info.siblings or []
        # those of folders within it, or above, are no files of the checkpoint
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
        self._held: dict[str, None] = {}
        self._pinned: set[str] = set()
        for name in self.sizes:
            self._make_stub(name)
            if self._whole(name).is_file():
                self._show(name, self._whole(name))
                self._held[name] = None

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
        """A digest that changes with any byte of the weights."""
        listed = sorted(f"{name} {digest}" for name, digest in self.digests.items())
        return hashlib.sha256("\n".join(listed).encode()).hexdigest()

    def require(self, tensors: Iterable[tuple[Path, int]]) -> None:
        """Have these tensors here, each by its file and bytes. Raises `HubError`."""
        names = [f.name for f, size in tensors if size > SMALL or not self._has_small(f.name)]
        wanted = [name for name in dict.fromkeys(names) if name in self.sizes]
        for name in wanted:
            if name in self._held:
                self._held[name] = self._held.pop(name)  # the latest last
        for name in wanted:
            if name not in self._held:
                self._drop(HELD - 1, wanted)
                self._fetch(name)
                self._held[name] = None

    def pin(self, files: Iterable[Path]) -> None:
        """Keep these once they are here: they are needed at the beginning and at the end."""
        self._pinned |= {file.name for file in files}

    @property
    def most_bytes(self) -> int:
        """Bytes of disk that it takes at most."""
        largest = max(self.sizes.values())
        return (HELD + len(self._pinned)) * largest

    def close(self) -> None:
        """Remove all of it."""
        shutil.rmtree(self.root, ignore_errors=True)

    def _drop(self, most: int, wanted: list[str]) -> None:
        loose = [n for n in self._held if n not in self._pinned and n not in wanted]
        for name in loose[: max(len(self._held.keys() - self._pinned) - most, 0)]:
            self._show(name, self._stub(name))
            self._whole(name).unlink()
            del self._held[name]

    def _fetch(self, name: str) -> None:
        """The whole file, through a place of its own, then under its name in one step."""
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
                return  # a small file, without a digest of its own
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
        """The header, in a file of full size without anything behind it."""
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
        """Let the folder's `name` be `file`, in one step."""
        link = self.directory / name
        part = link.with_name(f".{name}.link")
        part.unlink(missing_ok=True)
        part.symlink_to(os.path.relpath(file, link.parent))
        part.replace(link)

    def _keep_small(self, name: str) -> None:
        """Copy small tensors to the stub: norms are written long after the matrices beside them."""
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
        """Whether the small tensors of a file are here, whole or not."""
        return self._stub(name).with_name(f"{name}.small").is_file()
