"""Kernels run for every test here: on the GPU where there is one, else as Metal text on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from qwen3_mlx.metal import launch
from qwen3_mlx.metal.launch import Launch
from tests.metal.harness import executing


@pytest.fixture(autouse=True)
def launches() -> Iterator[list[Launch]]:
    with executing() as made:
        yield made


@pytest.fixture
def mutate(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, str], None]:
    """``mutate(file, old, new)``: break a kernel's text for the rest of the test."""
    text = launch.text

    def put(file: str, old: str, new: str) -> None:
        broken = text(file).replace(old, new)
        assert broken != text(file), f"{file} has no {old!r}"
        monkeypatch.setattr(launch, "text", lambda name: broken if name == file else text(name))
        monkeypatch.setattr(launch, "kernel", launch.kernel.__wrapped__)

    return put
