"""The bundled model, served for a whole file of tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from qwen3_mlx.model import Qwen3, load
from tests.serve.server import Server, serving


@pytest.fixture(scope="session")
def demo() -> Qwen3:
    return load("demo")


@pytest.fixture(scope="module")
def server(demo: Qwen3) -> Iterator[Server]:
    with serving(demo) as one:
        yield one
