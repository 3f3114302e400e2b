"""A home of their own for what the command line keeps."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trust.turns import interleave as interleave


@pytest.fixture(autouse=True)
def state_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "state"
    monkeypatch.setenv("QWEN3_MLX_HOME", str(home))
    return home
