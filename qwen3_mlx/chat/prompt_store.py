"""Computed prompts on disk: the keys and values of a long beginning, for the next start.

One safetensors file each. Its name begins with a digest of the tokens, then comes one of all
that their keys and values depend on; so a changed model finds nothing of its own. The least
recently used are removed when the folder outgrows its cap.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO

import qwen3_mlx.device.backend as backend

import mlx.core as mx

from qwen3_mlx.chat.runtime import Runtime
from qwen3_mlx.checkpoint.headers import header_bytes, read_header
from qwen3_mlx.engine.background import Stopped
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.errors import CheckpointError, Qwen3Error
from qwen3_mlx.nn.cache.full import KVCache

VERSION = 2
CAP_BYTES = 2 * 10**9
SHORTEST = 32
"""Tokens below which a prompt is not worth a file."""
STALE = "a prompt kept on disk is from before the model, its settings or qwen3-mlx changed"
DAMAGED = "a prompt kept on disk is damaged and was removed"
_DTYPES = {mx.float32: "F32", mx.float16: "F16", mx.bfloat16: "BF16", mx.uint32: "U32"}


def model_key(runtime: Runtime) -> str | None:
    """A digest of what keys and values depend on besides the tokens; None if it can't be known.

    That is: the checkpoint's files (weights, template, tokenizer), RoPE as it is used, the dtype
    computed in, how keys and values are kept, the device, and the versions of MLX and of this
    file's layout.
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
    """A folder of computed prompts, at most `cap` bytes of them."""

    folder: Path
    cap: int = CAP_BYTES

    def restore(self, runtime: Runtime, tokens: Sequence[int], cache: PromptCache) -> str:
        """Fill `cache` with the longest beginning of `tokens` that is kept; returns a note.

        The note is empty unless something was there that is of no use: damaged (it is removed),
        or computed by a model that has changed since.
        """
        key, notes = model_key(runtime), []
        for count, file, of_key in self._matching(tokens, key):
            try:
                if of_key != key:
                    notes += [STALE] if _metadata(file).get("model") == runtime.name else []
                    continue
                layers = _load(file, tokens[:count], cache)
            except (Qwen3Error, OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
                if file.exists():  # else another chat has just removed it, to make room
                    notes.append(f"{DAMAGED}: {_first(error)}")
                    _remove(file)
                continue
            cache.layers[:], cache.tokens[:] = layers, tokens[:count]
            with contextlib.suppress(OSError):  # removed meanwhile, or a disk to read from only
                os.utime(file)
            break
        return f"{notes[0]}; it is computed anew" if notes else ""

    def _matching(self, tokens: Sequence[int], own: str | None) -> Iterator[tuple[int, Path, str]]:
        """Files whose tokens begin `tokens`: (count, file, key), longest first, `own` key first."""
        found = []
        digests: dict[int, str] = {}
        for file in self._files():
            name, _, rest = file.stem.partition("-")
            length, _, key = rest.partition("-")
            if not length.isdecimal() or not 0 < int(length) <= len(tokens):
                continue
            count = int(length)
            digests.setdefault(count, _digest(tokens[:count]))
            if digests[count] == name:
                found.append((count, file, key))
        yield from sorted(found, key=lambda one: (-one[0], one[2] != own))

    def save(
        self,
        runtime: Runtime,
        tokens: Sequence[int],
        cache: PromptCache,
        stopped: Stopped = lambda: False,
    ) -> bool:
        """Keep what `cache` holds for `tokens`, its beginning; False if given up on the way.

        True too if it can't or needn't be kept: too short, too long, no room on the disk, or its
        window no longer whole.
        """
        key, count = model_key(runtime), len(tokens)
        size = sum(a.nbytes for a in _arrays(cache.layers, count).values())
        if key is None or count < SHORTEST or not 0 < size <= self.cap:
            return True
        path = self.folder / f"{_digest(tokens)}-{count}-{key}.safetensors"
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle, name = tempfile.mkstemp(dir=self.folder, suffix=".part")
            done = False
            try:
                with os.fdopen(handle, "wb") as stream:
                    arrays = _arrays(cache.layers, count)
                    done = _write(stream, arrays, tokens, runtime.name, stopped)
                if done:
                    Path(name).replace(path)
            finally:
                Path(name).unlink(missing_ok=True)
            self._trim()
        except OSError:
            return True  # a full disk costs the next start some time, and nothing else
        return done

    def _files(self) -> list[Path]:
        return list(self.folder.glob("*.safetensors"))

    def _trim(self) -> None:
        """Remove the least recently used beyond the cap, and what a crash left half written."""
        for part in self.folder.glob("*.part"):
            if time.time() - part.stat().st_mtime > 3600:
                part.unlink(missing_ok=True)
        held = 0
        for file in sorted(self._files(), key=lambda file: -file.stat().st_mtime_ns):
            held += file.stat().st_size
            if held > self.cap:
                file.unlink(missing_ok=True)


def _remove(file: Path) -> None:
    with contextlib.suppress(OSError):
        file.unlink(missing_ok=True)


def _digest(tokens: Sequence[int]) -> str:
    return hashlib.sha256(b"".join(t.to_bytes(4, "little") for t in tokens)).hexdigest()[:32]


def _first(error: BaseException) -> str:
    return str(error).partition("\n")[0]


def _arrays(layers: Sequence[KVCache], count: int) -> dict[str, mx.array]:
    """The first `count` positions of every layer, by name; empty if one no longer has them."""
    arrays: dict[str, mx.array] = {}
    for index, layer in enumerate(layers):
        held = layer.stored(count)
        if not held:
            return {}
        arrays |= {f"{name}.{index}": array for name, array in held.items()}
    return arrays


def _raw(array: mx.array) -> bytes:
    flat = mx.contiguous(array).view(mx.uint8)
    return memoryview(flat).tobytes()  # type: ignore[arg-type]  # it has the protocol


def _described(name: str, array: mx.array) -> bytes:
    return f"{name} {array.dtype} {list(array.shape)}".encode()


def _metadata(file: Path) -> dict[str, str]:
    from safetensors import safe_open

    read_header(file)  # its checks are stricter than safetensors'
    with safe_open(file, framework="np") as stream:
        return stream.metadata() or {}


def _write(
    stream: BinaryIO,
    arrays: dict[str, mx.array],
    tokens: Sequence[int],
    model: str,
    stopped: Stopped,
) -> bool:
    """A safetensors file with a digest of its tensors' bytes; False if given up on the way."""
    about = {"format": "qwen3-mlx prompt", "digest": "0" * 64, "model": model}
    shapes = ((n, _DTYPES[array.dtype], array.shape, array.nbytes) for n, array in arrays.items())
    header = header_bytes(shapes, about)
    digest = hashlib.sha256(_digest(tokens).encode())
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


def _load(file: Path, tokens: Sequence[int], cache: PromptCache) -> list[KVCache]:
    """The layers in `file`, after checking every byte. Raises for whatever is wrong with it."""
    metadata = _metadata(file)
    # mx.load returns a dict for safetensors
    arrays: dict[str, mx.array] = mx.load(str(file))  # type: ignore[assignment]
    layers = cache.empty_layers()
    digest = hashlib.sha256(_digest(tokens).encode())
    for index, layer in enumerate(layers):
        held = {name: arrays[f"{name}.{index}"] for name in layer.parts}
        for name, array in held.items():
            digest.update(_described(f"{name}.{index}", array) + _raw(array))
        layer.restore(held, len(tokens))
    if metadata["digest"] != digest.hexdigest():
        raise CheckpointError(f"{file.name}: its bytes are not those that were written")
    return layers
