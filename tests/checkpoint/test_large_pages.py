"""Reading into large pages: the same weights, in such pages, and a file cut short on the way."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from qwen3_mlx.checkpoint import large_pages, load_network
from qwen3_mlx.checkpoint.headers import checkpoint_tensors
from qwen3_mlx.errors import CheckpointError
from tests.checkpoints import GOLDEN, copy, store, tensors

pytestmark = pytest.mark.skipif(not large_pages.supported(), reason="Linux's CPU backend only")
SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def loaded(directory: Path) -> dict[str, mx.array]:
    return dict(tree_flatten(load_network(directory)[0].parameters()))


@pytest.mark.parametrize("name", ["dense-untied", "moe-no-norm"])
def test_the_weights_are_those_that_mlx_reads(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = copy(name, tmp_path)
    store(model, {key: w.astype(mx.bfloat16) for key, w in tensors(model).items()})
    fill = large_pages._fill

    def late(*job: Any) -> None:
        time.sleep(0.002)  # so that what does not wait for it sees other bytes
        fill(*job)

    monkeypatch.setattr(large_pages, "_fill", late)
    got = loaded(model)
    monkeypatch.setattr(large_pages, "supported", lambda: False)
    expected = loaded(model)
    assert got.keys() == expected.keys()
    for key, array in expected.items():
        assert got[key].dtype == array.dtype, key
        assert bool(mx.array_equal(got[key], array)), key


def huge() -> int:
    """Bytes of this process in large pages."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("AnonHuge"))


@pytest.mark.skipif(
    not SETTING.exists() or "[madvise]" not in SETTING.read_text(),
    reason="the system gives large pages to all or to none",
)
def test_a_tensor_lies_in_large_pages(tmp_path: Path) -> None:
    """64 MB of them: more than the allocator would take from what it has been given back."""
    tensor = mx.zeros((1 << 24,), mx.uint32)
    mx.save_safetensors(str(tmp_path / "model.safetensors"), {"packed": tensor})
    before = huge()
    with large_pages.Reader() as reader:
        arrays, reading = reader.begin(list(checkpoint_tensors(tmp_path).values()))
        for part in reading:
            part.result()
        assert huge() - before > tensor.nbytes / 2
    assert bool(mx.array_equal(arrays["packed"], tensor))


def test_a_file_cut_short_after_its_header_was_read_is_a_clear_error(tmp_path: Path) -> None:
    model = copy("dense-untied", tmp_path)
    infos = list(checkpoint_tensors(model).values())
    last = max(infos, key=lambda info: info.offset)
    with last.file.open("r+b") as file:
        file.truncate(last.offset + last.nbytes - 3)
    with large_pages.Reader() as reader:
        _, reading = reader.begin(infos)
        with pytest.raises(CheckpointError, match="cut short while it was read"):
            for part in reading:
                part.result()


def test_files_are_closed_after_a_load() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    load_network(GOLDEN / "dense-untied")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_it_is_off_where_mlx_reads_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Into other memory than it asked to be filled, or later than now."""
    load = mx.load
    monkeypatch.setattr(mx, "load", lambda *a, **k: {"x": mx.zeros((1024,), mx.uint8)})
    assert not large_pages._probe.__wrapped__()

    def copied(*args: Any, **options: Any) -> dict[str, mx.array]:
        read = load(*args, **options)
        arrays = {name: array + 0 for name, array in read.items()}
        mx.eval(arrays)  # `read` is still there, so not in its memory
        return arrays

    monkeypatch.setattr(mx, "load", copied)
    assert not large_pages._probe.__wrapped__()
    monkeypatch.setattr(mx, "load", load)
    assert large_pages._probe.__wrapped__()
