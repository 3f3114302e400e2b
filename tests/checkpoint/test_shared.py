"""One machine's part of a checkpoint: the right bytes of every layout, and not more memory."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from qwen3_mlx.checkpoint import load_network, raw, shared
from qwen3_mlx.checkpoint.headers import read_header
from qwen3_mlx.checkpoint.tensor_info import Part
from qwen3_mlx.config.share import Share
from qwen3_mlx.errors import OptionError
from qwen3_mlx.hub import resolve
from tests.checkpoint.test_load_memory import MEASURE, MIB, SLACK, big_checkpoint
from tests.checkpoints import GOLDEN

NAMES = sorted(path.name for path in GOLDEN.iterdir())


def parameters(path: Path, share: Share) -> dict[str, mx.array]:
    network, _ = load_network(path, share=share)
    found: dict[str, mx.array] = dict(tree_flatten(network.parameters()))
    return found


def shareable(path: Path, attention: bool) -> bool:
    from qwen3_mlx.config import Qwen3Config

    return not list(Share(0, 2, attention).faults(Qwen3Config.from_dir(path)))


@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize("name", [*NAMES, "demo", "demo-moe", "demo-tools"])
def test_each_part_is_the_whole_s(name: str, attention: bool) -> None:
    path = GOLDEN / name if name in NAMES else resolve.resolve(name)
    if not shareable(path, attention):
        with pytest.raises(OptionError, match="2 machines"):
            load_network(path, share=Share(0, 2, attention))
        return
    whole = parameters(path, Share(0, 1))
    for rank in (0, 1):
        share = Share(rank, 2, attention)
        own = parameters(path, share)
        assert own.keys() == whole.keys()
        for key, value in own.items():
            part = share.part(key.rpartition(".")[0], whole[key].shape)
            assert mx.array_equal(value, whole[key][part]), key


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 1), (3, 4), (2, 3, 4), (1, 2, 1)])
def test_a_part_of_any_axis_is_a_slice(tmp_path: Path, shape: tuple[int, ...]) -> None:
    whole = mx.random.normal(shape)
    mx.save_safetensors(str(tmp_path / "x.safetensors"), {"x": whole})
    info = read_header(tmp_path / "x.safetensors")["x"]
    for axis, length in enumerate(shape):
        for start, stop in combinations(range(length + 1), 2):
            index = mx.arange(start, stop)
            want = mx.take(whole, index, axis=axis)
            part = Part(axis, start, length)
            own = replace(info, shape=want.shape, nbytes=want.nbytes, part=part)
            assert mx.array_equal(shared.read_part(own), want)


def test_short_and_long_runs_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    path, share = GOLDEN / next(name for name in NAMES if "moe" in name), Share(1, 2)
    before = parameters(path, share)
    monkeypatch.setattr(shared, "SHORT_RUN", 1)
    runs = parameters(path, share)
    monkeypatch.setattr(shared, "SHORT_RUN", 1 << 40)
    monkeypatch.setattr(shared, "BLOCK", 100)
    blocks = parameters(path, share)
    for key, value in before.items():
        assert mx.array_equal(value, runs[key])
        assert mx.array_equal(value, blocks[key])


@pytest.mark.parametrize("experts", [1, 8])
def test_a_part_needs_its_own_memory_and_a_tensor(tmp_path: Path, experts: int) -> None:
    """Peak of MLX's own, and of the process, for one of two machines."""
    total, _ = big_checkpoint(tmp_path / "big", experts, packed=False)
    code = MEASURE.replace("load_network(sys.argv[2])", "load_network(sys.argv[2], share=HALF)")
    code = code.replace(
        "import mlx.core as mx\n",
        "import mlx.core as mx\nfrom qwen3_mlx.config.share import Share\nHALF = Share(1, 2)\n",
        1,
    )
    small = GOLDEN / NAMES[0]
    run = subprocess.run(
        [sys.executable, "-c", code, small, tmp_path / "big"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    final, peak, resident = map(int, run.stdout.split())
    config = json.loads((tmp_path / "big" / "config.json").read_text())
    largest = 4 * 512 * 6144 // (experts if experts == 1 else 1)
    assert final < 0.62 * 2 * total  # float32 here, of bfloat16 in the file
    assert peak <= final + largest + SLACK, config
    assert resident <= final + largest + SLACK + 24 * MIB


def counted_reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of each read of a file from now on."""
    read: list[int] = []
    inner = raw._read

    def counted(info: object, offset: int, view: memoryview) -> None:
        read.append(len(view))
        inner(info, offset, view)  # type: ignore[arg-type]

    monkeypatch.setattr(raw, "_read", counted)
    return read


def test_only_own_bytes_are_read_of_rows_and_experts(monkeypatch: pytest.MonkeyPatch) -> None:
    read = counted_reads(monkeypatch)
    monkeypatch.setattr(shared, "SHORT_RUN", 1)
    network, _ = load_network(resolve.resolve("demo-moe"), share=Share(0, 2))
    stored = 2  # bytes of a float in the file
    weights: dict[str, mx.array] = dict(tree_flatten(network.parameters()))
    own = sum(stored * w.size for p, w in weights.items() if Share(0, 2).split(p[:-7]) != "whole")
    assert sum(read) == own


@pytest.mark.parametrize(("columns", "alone"), [(16_384, True), (16_383, False)])
def test_a_run_of_64_kib_is_read_alone_and_a_shorter_one_with_its_row(
    tmp_path: Path, columns: int, alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = mx.random.normal((2, 32_768))
    mx.save_safetensors(str(tmp_path / "x.safetensors"), {"x": whole})
    info = read_header(tmp_path / "x.safetensors")["x"]
    part = Part(1, 100, 32_768)
    own = replace(info, shape=(2, columns), nbytes=2 * columns * 4, part=part)
    read = counted_reads(monkeypatch)
    assert mx.array_equal(shared.read_part(own), whole[:, 100 : 100 + columns])
    assert sum(read) == (own.nbytes if alone else whole.nbytes)
