"""Checkpoints for tests: the goldens, copies of them to spoil, and safetensors byte by byte."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from qwen3_mlx.checkpoint import load_network
from qwen3_mlx.errors import CheckpointError

GOLDEN = Path(__file__).parent / "golden" / "network"
"""What tests/golden/make_network.py wrote: a directory a checkpoint."""

GOLDEN_BOUND = 1e-9
"""NMSE against transformers, which sums in other orders and builds RoPE's tables otherwise."""

Header = dict[str, Any]


def expected(name: str) -> tuple[mx.array, np.ndarray]:
    """Return a golden's tokens [2, L] and transformers' float32 logits [2, L, V]."""
    with np.load(GOLDEN / name / "expected.npz") as file:
        return mx.array(file["tokens"]), file["logits"]


def copy(name: str, tmp_path: Path) -> Path:
    """Copy a golden to spoil it."""
    return Path(shutil.copytree(GOLDEN / name, tmp_path / "model"))


def split(directory: Path, file: str = "model.safetensors") -> tuple[Header, bytes]:
    """Return the header of a safetensors file and the bytes behind it."""
    raw = (directory / file).read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    return json.loads(raw[8:end]), raw[end:]


def join(header: Header | bytes, data: bytes) -> bytes:
    """Return a safetensors file; `header` as bytes need not be true, or JSON."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def tensors(directory: Path) -> dict[str, mx.array]:
    """Return the weights of a checkpoint in one file, by name."""
    return dict(mx.load(str(directory / "model.safetensors")))


def store(directory: Path, weights: dict[str, mx.array]) -> None:
    """Write them back."""
    mx.eval(list(weights.values()))  # they may come from the file that is written over
    mx.save_safetensors(str(directory / "model.safetensors"), weights)


def refused(directory: Path, *words: str) -> str:
    """Return the message with which loading fails; it holds all of `words`."""
    with pytest.raises(CheckpointError) as caught:
        load_network(directory)
    message = str(caught.value)
    for word in words:
        assert word in message, message
    return message


def named(message: str) -> list[str]:
    """Return the tensors that a message lists."""
    return re.findall(r"(?:model|lm_head)\.[\w.]*\w", message)
