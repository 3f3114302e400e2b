"""A model that nobody names, as a draft's and a saved conversation's, must fit as any other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from qwen3_mlx import load
from qwen3_mlx.chat import journal
from qwen3_mlx.chat.session import ChatSession
from qwen3_mlx.errors import OutOfMemoryError
from qwen3_mlx.options import GenerationOptions

LIMIT = "QWEN3_MLX_MEMORY_LIMIT"


def saved_chat(folder: Path) -> Path:
    path = folder / "a.jsonl"
    journal.save(path, "demo", GenerationOptions(), [{"role": "user", "content": "hi"}])
    return path


@pytest.mark.parametrize(
    "open_model",
    [
        lambda folder: ChatSession.load(saved_chat(folder)),
        lambda folder: load("demo"),
    ],
    ids=["saved", "named"],
)
def test_without_memory_it_is_refused(
    open_model: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_model(tmp_path)
    monkeypatch.setenv(LIMIT, "0.000001")
    with pytest.raises(OutOfMemoryError, match="demo does not fit"):
        open_model(tmp_path)
