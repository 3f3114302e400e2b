"""`info --machines`: what each machine holds, and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qwen3_mlx.cli import machines_report
from qwen3_mlx.cli.app import app
from qwen3_mlx.config.share import WAYS
from qwen3_mlx.errors import OptionError
from qwen3_mlx.hub.releases import SIZES


def model(folder: Path, size: str) -> str:
    packing = {"quantization": {"bits": 4, "group_size": 64}}
    (folder / "config.json").write_text(json.dumps(SIZES[size].config() | packing))
    return str(folder)


def test_two_macs_hold_what_one_does_not(tmp_path: Path) -> None:
    found = machines_report.gather(model(tmp_path, "235B-A22B"), None, None, "2x128")
    split, whole, pipeline = machines_report.record(found)["ways"]
    assert [way["way"] for way in (split, whole, pipeline)] == [*WAYS]
    assert split["fits"]
    assert whole["fits"]
    assert 66e9 < split["weight_bytes"] < whole["weight_bytes"] < 69e9  # two H200: 66.5 and 68.4
    text = "\n".join(machines_report.lines(found))
    assert "2 machines of 128 GB" in text
    assert "attention whole: 68.4 GB weights" in text
    assert "28 over Thunderbolt 5 with JACCL" in text
    assert pipeline["fits"]
    assert 66e9 < pipeline["weight_bytes"] < 68e9
    assert "22 over Thunderbolt 5 with JACCL, 22 over TCP" in text  # a hop is 8 KB, as a sum is


def test_eight_machines_leave_attention_whole(tmp_path: Path) -> None:
    found = machines_report.gather(model(tmp_path, "235B-A22B"), None, None, "8x64")
    assert [way.share.way for way in found.ways] == ["attention whole", "pipeline"]
    assert "8 machines can't share it out so: attention split" in "\n".join(
        machines_report.lines(found)
    )


def test_what_nothing_divides_is_a_pipeline_or_refused(tmp_path: Path) -> None:
    found = machines_report.gather(model(tmp_path, "235B-A22B"), None, None, "5x64")
    assert [way.share.way for way in found.ways] == ["pipeline"]
    whole = json.loads((tmp_path / "config.json").read_text()) | {"num_hidden_layers": 4}
    (tmp_path / "config.json").write_text(json.dumps(whole))
    with pytest.raises(OptionError, match="5 machines: got"):
        machines_report.gather(str(tmp_path), None, None, "5x64")


def test_one_memory_is_asked_for_not_two() -> None:
    """--memory beside --machines was passed over without a word."""
    done = CliRunner().invoke(app, ["info", "demo", "--machines", "2x8", "--memory", "24"])
    assert done.exit_code == 1 and "--machines and --memory: got both" in done.stderr
