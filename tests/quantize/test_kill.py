"""A conversion killed at any point goes on, and ends in the same bytes."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import mlx.core as mx
import pytest

from qwen3_mlx.errors import CheckpointError, OptionError
from qwen3_mlx.quantize.disk import Disk
from qwen3_mlx.quantize.journal import ConversionJournal
from tests.quantize.build import all_bytes
from tests.quantize.conftest import convert
from tests.quantize.killing import SHARD_BYTES

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_every_one_of_200_kill_points_resumes_to_the_same_bytes(
    dense: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    command = [sys.executable, "-m", "tests.quantize.killing", str(dense), str(work), "200"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["problems"] == []
    assert result["points"] == 200 and result["steps"] > 200
    # a step that only happens when there is an old result to replace may not be reached
    assert result["killed"] >= 190


class Filling(Disk):
    """A disk with room for so many bytes."""

    def __init__(self, room: int) -> None:
        self.room = room

    def write(self, stream: IO[bytes], data: memoryview | bytes) -> None:
        view = memoryview(data).cast("B")
        fits = view[: self.room]
        super().write(stream, fits)
        self.room -= len(fits)
        if len(fits) < len(view):
            raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_is_full_at_any_byte_is_one_error_and_resumes(
    dense: Path, tmp_path: Path
) -> None:
    convert(dense, tmp_path / "want", shard_bytes=SHARD_BYTES)
    want = all_bytes(tmp_path / "want")
    total = sum(map(len, want.values()))
    for number in range(40):
        out = tmp_path / f"o{number}"
        room = total * number // 40 + number  # every phase, at odd bytes
        with pytest.raises(CheckpointError) as caught:
            convert(dense, out, disk=Filling(room), shard_bytes=SHARD_BYTES)
        assert "the disk is full" in str(caught.value)
        assert "run the same command again" in str(caught.value)
        assert not out.exists()
        convert(dense, out, shard_bytes=SHARD_BYTES)
        assert all_bytes(out) == want
        assert not out.with_name(f"{out.name}.part").exists()


class Counting(Disk):
    """Remembers which shards were written."""

    def __init__(self) -> None:
        self.shards: list[str] = []

    def create(self, path: Path, *, append: bool = False) -> IO[bytes]:
        if ".safetensors." in path.name:
            self.shards.append(path.name)
        return super().create(path, append=append)


def stop_after(shards: int) -> Disk:
    class Stopping(Counting):
        def create(self, path: Path, *, append: bool = False) -> IO[bytes]:
            if ".safetensors." in path.name and len(self.shards) == shards:
                raise KeyboardInterrupt
            return super().create(path, append=append)

    return Stopping()


def test_finished_shards_are_not_made_again(dense: Path, tmp_path: Path) -> None:
    whole = Counting()
    convert(dense, tmp_path / "want", disk=whole, shard_bytes=SHARD_BYTES)
    with pytest.raises(KeyboardInterrupt):
        convert(dense, tmp_path / "out", disk=stop_after(3), shard_bytes=SHARD_BYTES)
    rest = Counting()
    convert(dense, tmp_path / "out", disk=rest, shard_bytes=SHARD_BYTES)
    assert rest.shards == whole.shards[3:]
    assert all_bytes(tmp_path / "out") == all_bytes(tmp_path / "want")


def test_a_finished_shard_that_was_damaged_since_is_made_again(dense: Path, tmp_path: Path) -> None:
    convert(dense, tmp_path / "want", shard_bytes=SHARD_BYTES)
    with pytest.raises(KeyboardInterrupt):
        convert(dense, tmp_path / "out", disk=stop_after(3), shard_bytes=SHARD_BYTES)
    second = sorted((tmp_path / "out.part").glob("model-*.safetensors"))[1]
    data = bytearray(second.read_bytes())
    data[-1] ^= 1
    second.write_bytes(data)
    rest = Counting()
    convert(dense, tmp_path / "out", disk=rest, shard_bytes=SHARD_BYTES)
    assert rest.shards[0] == f".{second.name}.part"
    assert all_bytes(tmp_path / "out") == all_bytes(tmp_path / "want")


@pytest.mark.parametrize("change", ["recipe", "source", "shards"])
def test_another_conversion_does_not_go_on_with_these_shards(
    dense: Path, tmp_path: Path, change: str
) -> None:
    with pytest.raises(KeyboardInterrupt):
        convert(dense, tmp_path / "out", disk=stop_after(3), shard_bytes=SHARD_BYTES)
    recipe = "8bit" if change == "recipe" else "4bit"
    size = SHARD_BYTES // 2 if change == "shards" else SHARD_BYTES
    if change == "source":
        file = dense / "model-00001-of-00003.safetensors"
        tensors = mx.load(str(file))
        mx.save_safetensors(str(file), {name: array[::-1] for name, array in tensors.items()})
    rest = Counting()
    convert(dense, tmp_path / "out", recipe, disk=rest, shard_bytes=size)
    assert rest.shards[0].startswith(".model-00001-of")
    convert(dense, tmp_path / "want", recipe, shard_bytes=size)
    assert all_bytes(tmp_path / "out") == all_bytes(tmp_path / "want")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n",
        b'{"key": "k"}\n{"shard": "a", "sha',
        b'{"key": "k"}\n[]\n{"shard": "a", "sha256": "0"}\n',
        b'{"key": "k"}\n\xff\xfe\n',
        b'{"shard": "a", "sha256": "0"}\n',
        b"null\n",
        b'{"key": "k"}\n{"key": "k"}\n',
        b'{"key": "k"}\n{"shard": ["a"], "sha256": "0"}\n',
        b'{"key": "k"}\n{"shard": {}, "sha256": "0"}\n',
        b'{"key": "k"}\n{"shard": "a", "sha256": 0}\n',
        b'{"key": "k", "shard": "a", "sha256": "0"}\n{"shard": "a", "sha256": "0"}\n',
        b'{"key": ["k"]}\n{"shard": "a", "sha256": "0"}\n',
    ],
)
def test_a_damaged_journal_is_believed_up_to_the_damage(tmp_path: Path, text: bytes) -> None:
    file, part = tmp_path / "out.journal", tmp_path / "out.part"
    file.write_bytes(text)
    journal = ConversionJournal.open(Disk(), file, part, "k")
    assert journal.shards == {}
    journal.add("b", "1")
    assert ConversionJournal.open(Disk(), file, part, "k").shards == {"b": "1"}


def test_a_directory_that_is_not_ours_is_not_emptied(dense: Path, tmp_path: Path) -> None:
    (tmp_path / "out.part").mkdir()
    (tmp_path / "out.part" / "diary.txt").write_text("mine")
    with pytest.raises(OptionError, match="in the way"):
        convert(dense, tmp_path / "out")
    assert (tmp_path / "out.part" / "diary.txt").read_text() == "mine"


def test_the_command_itself_survives_kill_9(dense: Path, tmp_path: Path) -> None:
    """The whole program, killed by the clock a few times, as users do it."""
    code = (
        "import sys; from pathlib import Path; from tests.quantize.conftest import convert;"
        f"convert(Path({str(dense)!r}), Path(sys.argv[1]), shard_bytes={SHARD_BYTES}, verify=True)"
    )
    for out, kills in (("want", 0), ("out", 4)):
        for number in range(kills + 1):
            command = [sys.executable, "-c", code, str(tmp_path / out)]
            child = subprocess.Popen(command, cwd=ROOT)
            if number < kills:
                time.sleep(0.4 + 0.15 * number)
                os.kill(child.pid, signal.SIGKILL)
            assert child.wait(120) == (-signal.SIGKILL if number < kills else 0) or number < kills
    assert all_bytes(tmp_path / "out") == all_bytes(tmp_path / "want")
