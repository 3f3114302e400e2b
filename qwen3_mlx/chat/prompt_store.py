"""Prompt caches on disk: the keys and values of a long prompt prefix, reused after a restart.

One safetensors file per prefix, with its token ids. Its name has a digest of the tokens and one of
everything else that the keys and values depend on, so a changed model never matches an old file. A
file also serves a prompt that shares only its beginning. When the folder exceeds its cap, the least
recently used files are removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO

import qwen3_mlx.device.backend as backend

import mlx.core as mx

from qwen3_mlx.chat.runtime import Runtime
from qwen3_mlx.checkpoint.headers import header_bytes, read_header
from qwen3_mlx.engine.background import Stopped
from qwen3_mlx.engine.prefixes import common_prefix
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.errors import CheckpointError, OutOfMemoryError, Qwen3Error
from qwen3_mlx.fit.guard import require
from qwen3_mlx.nn.cache.full import KVCache

VERSION = 3
CAP_BYTES = 2 * 10**9
SHORTEST = 32
"""Prompts of fewer tokens are not stored, and a shorter common beginning is not looked for."""
SHARE = 0.25
"""The share of a file's tokens that a prompt must have: all of it is read for them."""
IDS = "tokens"
"""The name of the token ids' tensor."""
STALE = "a prompt kept on disk is from before the model, its settings or qwen3-mlx changed"
DAMAGED = "a prompt kept on disk is damaged and was removed"
_DTYPES = {mx.float32: "F32", mx.float16: "F16", mx.bfloat16: "BF16", mx.uint32: "U32"}


def model_key(runtime: Runtime) -> str | None:
    """A digest of what keys and values depend on besides the tokens; None if it can't be known.

    It covers the checkpoint's files, the effective RoPE, the compute dtype, the cache's format,
    the device, MLX's version and the version of this file layout.
    """
    if runtime.fingerprint is None:
        return None
    dtype = str(runtime.network.model.norm.weight.dtype)
    parts = [VERSION, runtime.fingerprint, repr(runtime.config.rope), dtype]
    parts += [repr(runtime.cache_format)]
    parts += [backend.device(), version("mlx")]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@dataclass
class PromptStore:
    """A folder of stored prompts of at most `cap` bytes."""

    folder: Path
    cap: int = CAP_BYTES
    _ids: dict[str, list[int]] = field(default_factory=dict, init=False, repr=False)
    """The token ids of files that were looked at, by name, which has their digest."""

    def restore(
        self, runtime: Runtime, tokens: Sequence[int], cache: PromptCache, beyond: int = 0
    ) -> str:
        """Fill `cache` with the longest stored beginning of `tokens`; returns a note for the user.

        beyond: tokens that are at hand without the disk; no shorter beginning is read.

        The note is empty unless a matching file is damaged (it is then removed), or was computed
        by a model that has changed since.
        """
        key, notes = model_key(runtime), []
        for common, file, of_key in self._matching(tokens, key):
            if common <= beyond:
                break
            try:
                if of_key != key:
                    notes += [STALE] if _metadata(file).get("model") == runtime.name else []
                    continue
                require(file.stat().st_size, "while reading a kept prompt")
                ids, layers = _load(file, cache, common)
            except OutOfMemoryError:
                continue
            except (Qwen3Error, OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
                if file.exists():  # otherwise another chat has just removed it to make room
                    notes.append(f"{DAMAGED}: {_first_line(error)}")
                    _remove(file)
                continue
            if not layers:  # a sliding window has dropped the rows
                continue
            cache.layers[:], cache.tokens[:] = layers, ids
            with contextlib.suppress(OSError):  # removed meanwhile, or a read-only disk
                os.utime(file)
            break
        return f"{notes[0]}; it is computed anew" if notes else ""

    def _matching(self, tokens: Sequence[int], own: str | None) -> Iterator[tuple[int, Path, str]]:
        """Files that begin as `tokens` do, as (tokens in common, file, key): the most first.

        Key `own` goes before others, of which only whole prefixes of `tokens` are found.
        """
        found = []
        digests: dict[int, str] = {}
        files = self._files()
        self._ids = {file.name: self._ids[file.name] for file in files if file.name in self._ids}
        for file in files:
            name, _, rest = file.stem.partition("-")
            length, _, key = rest.partition("-")
            count = int(length) if length.isdecimal() else 0
            if 0 < count <= len(tokens):
                digests.setdefault(count, _digest(tokens[:count]))
            common = count if count and digests.get(count) == name else 0
            if not common and key == own:
                common = common_prefix(self._ids_of(file), tokens)
            if count > 0 and (common == count or common >= max(SHORTEST, SHARE * count)):
                found.append((common, count, file, key))
        found.sort(key=lambda one: (-one[0], one[3] != own, one[1]))
        yield from ((common, file, key) for common, _, file, key in found)

    def _ids_of(self, file: Path) -> list[int]:
        """The token ids of `file`; empty if it can't be read."""
        try:
            if file.name not in self._ids:
                read_header(file)
                held: dict[str, mx.array] = mx.load(str(file))  # type: ignore[assignment]
                self._ids[file.name] = held[IDS].tolist()  # type: ignore[assignment]  # nested, to mypy
            return self._ids[file.name]
        except (Qwen3Error, OSError, ValueError, RuntimeError, KeyError):
            return []

    def save(
        self,
        runtime: Runtime,
        tokens: Sequence[int],
        cache: PromptCache,
        stopped: Stopped = lambda: False,
    ) -> bool:
        """Store the cache's first positions, those of `tokens`; False if `stopped()` ended it.

        True also if the prompt is not stored: too short, larger than the cap, a full disk, or a
        sliding window that no longer has all positions.
        """
        key, count = model_key(runtime), len(tokens)
        arrays = _arrays(cache.layers, count)
        size = sum(array.nbytes for array in arrays.values())
        if key is None or count < SHORTEST or not 0 < size <= self.cap:
            return True
        path = self.folder / f"{_digest(tokens)}-{count}-{key}.safetensors"
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle, name = tempfile.mkstemp(dir=self.folder, suffix=".part")
            done = False
            try:
                with os.fdopen(handle, "wb") as stream:
                    arrays[IDS] = mx.array(list(tokens), mx.uint32)
                    done = _write(stream, arrays, runtime.name, stopped)
                if done:
                    Path(name).replace(path)
            finally:
                Path(name).unlink(missing_ok=True)
            self._trim()
        except OSError:
            return True  # on a full disk only the next start is slower
        return done

    def _files(self) -> list[Path]:
        return list(self.folder.glob("*.safetensors"))

    def _trim(self) -> None:
        """Remove the least recently used files beyond the cap, and leftovers of crashes."""
        for part in self.folder.glob("*.part"):
            if time.time() - part.stat().st_mtime > 3600:
                part.unlink(missing_ok=True)
        parts = 0
        for file in sorted(self._files(), key=lambda file: -file.stat().st_mtime_ns):
            parts += file.stat().st_size
            if parts > self.cap:
                file.unlink(missing_ok=True)


def _remove(file: Path) -> None:
    with contextlib.suppress(OSError):
        file.unlink(missing_ok=True)


def _digest(tokens: Sequence[int]) -> str:
    return hashlib.sha256(b"".join(t.to_bytes(4, "little") for t in tokens)).hexdigest()[:32]


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


def _arrays(layers: Sequence[KVCache], count: int) -> dict[str, mx.array]:
    """The first `count` positions of every layer by name; empty if a layer has dropped some."""
    arrays: dict[str, mx.array] = {}
    for index, layer in enumerate(layers):
        parts = layer.stored(count)
        if not parts:
            return {}
        arrays |= {f"{name}.{index}": array for name, array in parts.items()}
    return arrays


def _raw(array: mx.array) -> bytes:
    flat = mx.contiguous(array).view(mx.uint8)
    return memoryview(flat).tobytes()  # type: ignore[arg-type]  # supports the buffer protocol


def _described(name: str, array: mx.array) -> bytes:
    return f"{name} {array.dtype} {list(array.shape)}".encode()


def _metadata(file: Path) -> dict[str, str]:
    from safetensors import safe_open

    read_header(file)  # checks more than safetensors does
    with safe_open(file, framework="np") as stream:
        return stream.metadata() or {}


def _write(
    stream: BinaryIO,
    arrays: dict[str, mx.array],
    model: str,
    stopped: Stopped,
) -> bool:
    """Write a safetensors file with a digest of its tensors; False if `stopped()` ended it."""
    about = {"format": "qwen3-mlx prompt", "digest": "0" * 64, "model": model}
    shapes = ((n, _DTYPES[array.dtype], array.shape, array.nbytes) for n, array in arrays.items())
    header = header_bytes(shapes, about)
    digest = hashlib.sha256()
    stream.write(header)
    for name, array in arrays.items():
        if stopped():
            return False
        data = _raw(array)
        digest.update(_described(name, array) + data)
        stream.write(data)
    stream.seek(0)
    stream.write(header.replace(b"0" * 64, digest.hexdigest().encode(), 1))
    stream.flush()
    os.fsync(stream.fileno())
    return True


def _load(file: Path, cache: PromptCache, count: int) -> tuple[list[int], list[KVCache]]:
    """The first `count` token ids and positions in `file`; no layers if some have dropped them.

    Raises unless every byte matches the digest and the layout fits.
    """
    metadata = _metadata(file)
    # mx.load returns a dict for safetensors
    arrays: dict[str, mx.array] = mx.load(str(file))  # type: ignore[assignment]
    ids: list[int] = arrays[IDS].tolist()  # type: ignore[assignment]  # nested, to mypy
    layers = cache.empty_layers()
    digest = hashlib.sha256()
    for index, layer in enumerate(layers):
        parts = {name: arrays[f"{name}.{index}"] for name in layer.parts}
        for name, array in parts.items():
            digest.update(_described(f"{name}.{index}", array) + _raw(array))
        layer.restore(parts, len(ids))
    digest.update(_described(IDS, arrays[IDS]) + _raw(arrays[IDS]))
    if metadata["digest"] != digest.hexdigest():
        raise CheckpointError(f"{file.name}: its bytes are not those that were written")
    return ids[:count], layers if count == len(ids) else _first(layers, count, cache)


def _first(layers: Sequence[KVCache], count: int, cache: PromptCache) -> list[KVCache]:
    """New layers with copies of the first `count` positions, so that the rest's memory is free."""
    fewer = cache.empty_layers()
    for layer, part in zip(layers, fewer, strict=True):
        stored = {name: mx.contiguous(array) for name, array in layer.stored(count).items()}
        if not stored:
            return []
        mx.eval(list(stored.values()))
        part.restore(stored, count)
    return fewer
