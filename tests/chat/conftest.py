"""What the tests of turns and of the background share."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from qwen3_mlx.chat.prompt_store import PromptStore
from qwen3_mlx.engine import warm as warm_module
from qwen3_mlx.engine.fair import ChunkPace
from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.model import Qwen3, load


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Makes every step of warming take 50 ms; lists the tokens of each."""
    steps: list[int] = []

    def crawl(network: Any, tokens: Sequence[int], cache: PromptCache) -> Any:
        time.sleep(0.05)
        steps.append(len(tokens))
        return prefill(network, tokens, cache)

    monkeypatch.setattr(warm_module, "prefill", crawl)
    return steps


def until(steps: list[int], count: int) -> None:
    end = time.monotonic() + 10
    while len(steps) < count and time.monotonic() < end:
        time.sleep(0.005)
    assert len(steps) >= count


@pytest.fixture
def whole_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts are read in the chunks that a turn alone reads them in, however busy the machine."""
    monkeypatch.setattr(ChunkPace, "size", lambda _pace, _seconds, most, _offset=0: most)


@pytest.fixture(scope="module")
def demo() -> Qwen3:
    return load("demo")


@pytest.fixture
def store(tmp_path: Path) -> PromptStore:
    return PromptStore(tmp_path / "prompts")
