"""A source that changes while it is converted."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from qwen3_mlx.errors import CheckpointError
from qwen3_mlx.quantize import job as jobs
from qwen3_mlx.quantize import staging
from tests.quantize.build import DENSE, bf16_model
from tests.quantize.conftest import convert, request


@pytest.mark.parametrize("verify", [False, True])
def test_a_source_that_changes_meanwhile(dense: Path, tmp_path: Path, verify: bool) -> None:
    """A training or a sync that writes to it: the result was of both, or "please report"."""
    other = bf16_model(tmp_path / "other", DENSE, shards=3, seed=7)
    job = jobs.prepare(request(dense, tmp_path / "out", verify=verify))
    for file in other.glob("*.safetensors"):
        shutil.copy(file, dense / file.name)
    with pytest.raises(CheckpointError, match="the source has changed while it was") as caught:
        jobs.run(job)
    assert "run the same command again" in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith("out")] == []
    convert(dense, tmp_path / "out")
    convert(other, tmp_path / "again")
    weights = (tmp_path / "again/model.safetensors").read_bytes()
    assert (tmp_path / "out/model.safetensors").read_bytes() == weights


def test_a_source_that_goes_after_it_was_read_is_no_fault(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = staging._write_shards

    def gone(*arguments: Any) -> None:
        write(*arguments)
        for file in dense.glob("*.safetensors"):
            file.unlink()

    monkeypatch.setattr(staging, "_write_shards", gone)
    convert(dense, tmp_path / "out")
