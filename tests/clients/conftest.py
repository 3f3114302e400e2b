"""The scripted model, loaded once, and a server of it for each file of tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwen3_mlx.model import Qwen3
from tests.clients.model import loaded
from tests.clients.served import Served, scripted_server

DEMO = Path(__file__).parents[2] / "qwen3_mlx" / "demo"


@pytest.fixture(scope="session")
def real_tokens() -> Path | None:
    """The folder with Qwen3's own tokenizer; None if it isn't there: the demo's serves, too."""
    beside = Path(__file__).parents[3] / "shared" / "data" / "qwen3"
    folder = Path(os.environ.get("QWEN3_FILES") or beside)
    return folder if (folder / "tokenizer.json").is_file() else None


@pytest.fixture(scope="session")
def scripted(tmp_path_factory: pytest.TempPathFactory, real_tokens: Path | None) -> Qwen3:
    return loaded(tmp_path_factory.mktemp("clients"), real_tokens or DEMO)


@pytest.fixture(scope="module")
def served_for_all(scripted: Qwen3) -> Iterator[Served]:
    with scripted_server(scripted) as one:
        yield one


@pytest.fixture
def served(served_for_all: Served) -> Served:
    served_for_all.say("It is 4.")
    return served_for_all
