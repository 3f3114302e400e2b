"""A finished result is looked at again before it is called done, or published."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from qwen3_mlx.cli.app import app
from qwen3_mlx.errors import CheckpointError, OptionError
from qwen3_mlx.quantize import job as jobs
from qwen3_mlx.quantize import journal, learned
from tests.hub_upload_stub import UploadStub
from tests.quantize.build import all_bytes
from tests.quantize.conftest import convert, request
from tests.quantize.test_upload import hub as hub

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

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


def flip(out: Path) -> None:
    """One bit in the middle of the weights, as a failing disk or cable gives it."""
    file = sorted(out.glob("*.safetensors"))[-1]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def test_a_flipped_bit_is_not_published_and_force_mends_it(
    hub: UploadStub, dense: Path, tmp_path: Path
) -> None:
    """Size and header are those of the result; the digests of what was written are not."""
    convert(dense, tmp_path / "out", "8bit", shard_bytes=60_000)
    whole = all_bytes(tmp_path / "out")
    typed = ["convert", str(dense), "--out", str(tmp_path / "out"), "--recipe", "8bit"]
    typed += ["--shard-size", "0.00006", "--upload", "me/tiny"]
    flip(tmp_path / "out")
    done = CliRunner().invoke(app, typed)
    assert done.exit_code == 1 and "is not the file that was converted: got sha256" in done.stderr
    assert "with --force" in done.stderr and hub.repos == {} and hub.sent() == []
    done = CliRunner().invoke(app, [*typed, "--force"])
    assert done.exit_code == 0, done.stderr
    weights = {name: data for name, data in whole.items() if name.endswith(".safetensors")}
    assert weights.items() <= hub.branches["me/tiny", "main"].items()


@pytest.mark.parametrize("digests", [None, {}, {"model.safetensors": 3}, ["x"]])
def test_the_digests_of_a_record(dense: Path, tmp_path: Path, digests: Any) -> None:
    """An older record has none; what is no digest is a damaged record."""
    out = tmp_path / "out"
    convert(dense, out)
    whole = json.loads((out / "conversion.json").read_text())["sha256"]
    assert whole == {"model.safetensors": journal.sha256(out / "model.safetensors")}
    record(lambda r: r.pop("sha256") if digests is None else r.update(sha256=digests))(out)
    if digests:
        with pytest.raises(CheckpointError, match="damaged 'sha256'"):
            convert(dense, out)
    else:
        convert(dense, out)


def test_a_file_that_the_digests_name_and_is_gone(dense: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(dense, out)
    record(lambda r: r["sha256"].update({"model-9.safetensors": "0"}))(out)
    convert(dense, out)  # whatever else is there, the model is whole
    convert(dense, out, force=True)
    assert "model-9.safetensors" not in json.loads((out / "conversion.json").read_text())["sha256"]


def test_comparing_later_keeps_the_digests_of_what_was_written(dense: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(dense, out, "8bit")
    written = json.loads((out / "conversion.json").read_text())["sha256"]
    flip(out)
    assert convert(dense, out, "8bit", verify=True)["sha256"] == written
