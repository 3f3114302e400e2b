"""A finished result is looked at again before it is called done, or published."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qwen3_mlx.errors import CheckpointError, OptionError
from qwen3_mlx.quantize import job as jobs
from qwen3_mlx.quantize import learned
from tests.quantize.build import all_bytes
from tests.quantize.conftest import convert, request

Fault = Callable[[Path], None]


def remove(name: str) -> Fault:
    return lambda out: (out / name).unlink()


def cut(out: Path) -> None:
    with (out / "model.safetensors").open("r+b") as stream:
        stream.truncate(1000)


def garble(out: Path) -> None:
    with (out / "model.safetensors").open("r+b") as stream:
        stream.write(b"\xff" * 64)


def record(change: Callable[[dict[str, Any]], object]) -> Fault:
    def edit(out: Path) -> None:
        values = json.loads((out / "conversion.json").read_text())
        change(values)
        (out / "conversion.json").write_text(json.dumps(values))

    return edit


FAULTS: dict[str, Fault] = {
    "no model.safetensors": remove("model.safetensors"),
    "model.safetensors of 1,000 bytes": cut,
    "model.safetensors": garble,
    "no tokenizer.json": remove("tokenizer.json"),
    "no config.json": remove("config.json"),
    "no model.safetensors.index.json": remove("model.safetensors.index.json"),
    "damaged 'weight_bytes'": record(lambda r: r.pop("weight_bytes")),
    "damaged 'bits_per_weight'": record(lambda r: r.update(bits_per_weight="4")),
    "damaged 'recipe'": record(lambda r: r.update(recipe=3)),
    "damaged 'measured'": record(lambda r: r.update(measured={"kl_mean": 0.1})),
    "a damaged 'measured'": record(lambda r: r.pop("measured")),
    "with a damaged 'measured'": record(lambda r: r.update(measured="yes")),
}


@pytest.mark.parametrize("said", FAULTS)
def test_a_result_that_lost_something_is_not_done(dense: Path, tmp_path: Path, said: str) -> None:
    out = tmp_path / "out"
    convert(dense, out)
    whole = all_bytes(out)
    FAULTS[said](out)
    damaged = all_bytes(out)
    with pytest.raises(CheckpointError, match="is not what was converted") as caught:
        convert(dense, out)
    assert said in str(caught.value) and "--force" in str(caught.value)
    assert all_bytes(out) == damaged
    convert(dense, out, force=True)
    assert all_bytes(out) == whole


def test_what_users_may_change_is_still_the_result(dense: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(dense, out)
    (out / "README.md").unlink()
    (out / "generation_config.json").write_text("{}")
    (out / "picture.png").write_bytes(b"x")
    before = all_bytes(out)
    convert(dense, out)
    convert(dense, out, force=True)
    assert all_bytes(out) == before


def test_a_damaged_result_with_files_of_the_users_is_refused_at_once(
    dense: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    convert(dense, out)
    cut(out)
    (out / "picture.png").write_bytes(b"x")
    with pytest.raises(OptionError, match=r"picture\.png"):
        convert(dense, out, force=True)
    assert not out.with_name("out.part").exists()


@pytest.mark.parametrize("fault", [remove("model.safetensors"), cut, remove("tokenizer.json")])
def test_the_result_of_a_learned_packing(dense: Path, tmp_path: Path, fault: Fault) -> None:
    job = jobs.prepare(request(dense, tmp_path / "out"))
    convert(dense, tmp_path / "out")
    record(lambda r: r.update(key=learned.keyed(job, "awq").target.key))(tmp_path / "out")

    def never(*_: Any) -> None:
        pytest.fail("mlx-lm was started")

    learned.run(job, "awq", run=never)
    fault(tmp_path / "out")
    with pytest.raises(CheckpointError, match="is not what was converted"):
        learned.run(job, "awq", run=never)
