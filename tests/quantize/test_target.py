"""What a conversion may replace, with ``--force`` too: its own kind of result, and nothing else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from qwen3_mlx.cli.app import app
from qwen3_mlx.cli.conversion_source import remote, stem
from qwen3_mlx.cli.terminal.screen import Screen
from qwen3_mlx.errors import OptionError
from qwen3_mlx.quantize import room
from qwen3_mlx.quantize.disk import Disk
from qwen3_mlx.quantize.target_check import check_file, check_in_the_way
from tests.quantize.build import all_bytes
from tests.quantize.conftest import comes_meanwhile, convert


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["convert", *map(str, arguments)])


def everything(folder: Path) -> dict[str, bytes | str]:
    """Every entry below `folder`: files with their bytes, links with where they lead."""
    return {
        str(path.relative_to(folder)): str(path.readlink())
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else "another"
        for path in sorted(folder.rglob("*"))
    }


def project(out: Path) -> None:
    (out / "sub").mkdir(parents=True)
    (out / "thesis.txt").write_text("thesis")


def checkpoint(out: Path) -> None:
    out.mkdir()
    (out / "config.json").write_text('{"model_type": "qwen3"}')
    (out / "model.safetensors").write_bytes(b"weights")


def beside(*names: str) -> Callable[[Path], None]:
    """A checkpoint, and beside its files these; a name that ends with a slash is a directory."""

    def make(out: Path) -> None:
        checkpoint(out)
        for name in names:
            (out / name).mkdir() if name.endswith("/") else (out / name).write_text("mine")

    return make


def weights_alone(out: Path) -> None:
    out.mkdir()
    (out / "model.safetensors").write_bytes(b"weights")


def link(out: Path) -> None:
    checkpoint(out.with_name("elsewhere"))
    out.symlink_to("elsewhere")


@pytest.mark.parametrize("more", [["--force"], ["--force", "--dry-run"]])
@pytest.mark.parametrize(
    "make, said",
    [
        (project, "got sub/ in it"),
        (beside("thesis.txt"), "got thesis.txt in it"),
        (beside("notes/"), "got notes/ in it"),
        (beside(".git/"), "got .git/ in it"),
        (beside("adapters.safetensors"), "got adapters.safetensors in it"),
        (beside("model.safetensors.bak"), "got model.safetensors.bak in it"),
        (beside("tokenizer.json/"), "got tokenizer.json/ in it"),
        (weights_alone, "neither config.json nor conversion.json"),
        (link, "--out is a link"),
        (lambda out: out.symlink_to("nowhere"), "--out is a link"),
        (lambda out: out.write_text("mine"), "--out is no directory"),
        (os.mkfifo, "--out is no directory"),
    ],
)
def test_force_replaces_nothing_but_a_checkpoint(
    dense: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], None],
    said: str,
    more: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "out")
    before = everything(tmp_path)
    done = run("dense", "--out", "out", "--no-verify", *more)
    assert (done.exit_code, done.stdout) == (1, "")
    assert said in done.stderr and "hint: " in done.stderr
    assert everything(tmp_path) == before


@pytest.mark.parametrize("more", [[], ["--force"], ["--dry-run"], ["--shares", "2"]])
@pytest.mark.parametrize(
    "out, said",
    [
        (".", "--out is the current directory"),
        ("./", "--out is the current directory"),
        ("", "--out is the current directory"),
        ("here/..", "--out is the current directory"),
        ("..", "--out is a directory above the current directory"),
        ("../..", "--out is a directory above the current directory"),
        ("/", "--out is a directory above the current directory"),
        ("~", "--out is the home directory"),
        ("~/..", "--out is a directory above the home directory"),
        ("../other/sub/..", "--out is a path that doesn't end in a name"),
    ],
)
def test_no_directory_that_holds_others_is_the_target(
    dense: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    out: str,
    said: str,
    more: list[str],
) -> None:
    for name in ("work/empty/here", "work/other/sub", "place/home"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "place/home"))
    monkeypatch.chdir(tmp_path / "work/empty")
    before = everything(tmp_path)
    done = run(dense, "--recipe", "8bit", "--out", out.replace("~", str(Path.home())), *more)
    assert (done.exit_code, done.stdout) == (1, "")
    assert said in done.stderr and "expected a new directory\nhint: " in done.stderr
    assert everything(tmp_path) == before


@pytest.mark.parametrize("out", ["new/", "./new", "a/b/new", "sub/../new"])
def test_a_target_may_be_spelled_in_any_way(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    done = run("dense", "--out", out, "--no-verify")
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / out / "conversion.json").is_file()


def test_what_belongs_to_a_checkpoint_is_replaced(dense: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(dense, out, "8bit")
    for name in (".DS_Store", ".gitattributes", ".config.json.part", "NOTICE", "vocab.json"):
        (out / name).write_text("of no checkpoint of ours")
    convert(dense, out, force=True)
    convert(dense, tmp_path / "want")
    assert all_bytes(out) == all_bytes(tmp_path / "want")


@pytest.mark.parametrize(
    "name", ["out.replaced/thesis.txt", "out.replaced", "out.journal", "out.states.safetensors"]
)
@pytest.mark.parametrize("force", [False, True])
def test_what_lies_beside_the_target_is_not_removed_unless_a_conversion_left_it(
    dense: Path, tmp_path: Path, name: str, force: bool
) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine")
    with pytest.raises(OptionError, match="something is in the way"):
        convert(dense, tmp_path / "out", force=force)
    assert file.read_text() == "mine" and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "learned"),
    [
        *(("out.part/thesis.txt", kind) for kind in (None, "dwq")),
        *(("out.part", None), ("out.replaced/thesis.txt", None), ("out.journal", None)),
        *((f"out.{kind}/thesis.txt", kind) for kind in ("dwq", "awq")),
    ],
)
def test_a_dry_run_is_stopped_by_what_stops_the_run(
    dense: Path, tmp_path: Path, name: str, learned: str | None
) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine")
    typed = (dense, "--out", tmp_path / "out", *(("--learned", learned) if learned else ()))
    dry, real = run(*typed, "--dry-run"), run(*typed)
    assert "in the way" in dry.stderr and dry.exit_code == real.exit_code == 1
    assert dry.stderr == real.stderr


@pytest.mark.parametrize("learned", [(), ("--learned", "dwq")])
@pytest.mark.parametrize("trouble", ["not enough space on the disk", "can't be written"])
def test_a_dry_run_asks_the_disk_as_the_run_does(
    dense: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trouble: str,
    learned: tuple[str, ...],
) -> None:
    """A place that has no room, or takes nothing, was promised a result; refused, litter stayed."""
    if trouble.startswith("not enough"):
        monkeypatch.setattr(Disk, "free_bytes", lambda self, path: 1_000_000)
    else:
        monkeypatch.setattr(room.os, "access", lambda path, mode: False)
    before = sorted(tmp_path.iterdir())
    typed = (dense, "--out", tmp_path / "out", *learned)
    dry, real = run(*typed, "--dry-run"), run(*typed)
    assert trouble in dry.stderr and dry.exit_code == real.exit_code == 1
    assert dry.stderr == real.stderr and sorted(tmp_path.iterdir()) == before


def test_what_a_killed_run_left_is_room_for_the_next(dense: Path, tmp_path: Path) -> None:
    """Half of a file is written over; another conversion's are removed."""
    convert(dense, tmp_path / "whole")
    need = room.MARGIN + sum(file.stat().st_size for file in (tmp_path / "whole").iterdir())
    (tmp_path / "out.part").mkdir()
    (tmp_path / "out.part/model.safetensors").write_bytes(bytes(100_000))
    (tmp_path / "out.journal").write_text('{"key": "of another"}\n')
    disk = Disk()
    disk.free_bytes = lambda path: need - 100_000  # type: ignore[method-assign]
    convert(dense, tmp_path / "out", disk=disk)


def test_a_whole_checkpoint_of_the_user_outlives_sharing_out(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sharing out writes OUT.whole first, and removes it in the end."""
    monkeypatch.chdir(tmp_path)
    typed = ("dense", "--recipe", "8bit", "--shares", 2, "--pipeline", "--no-verify")
    assert run(*typed, "--out", "two").exit_code == 0
    project(tmp_path / "two.whole")
    assert run(*typed, "--out", "two").exit_code == 0
    assert (tmp_path / "two.whole/thesis.txt").read_text() == "thesis"


def test_a_folder_where_files_are_fetched_to_is_not_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project(tmp_path / "out.source")
    with pytest.raises(OptionError, match="something is in the way"):
        remote("someone/model", tmp_path / "out", Screen())


def test_files_that_come_while_it_converts_are_kept(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        comes_meanwhile(patch, lambda: project(out))
        with pytest.raises(OptionError, match="the target exists"):
            convert(dense, out)
    assert (out / "thesis.txt").read_text() == "thesis"
    shutil.move(out, tmp_path / "mine")
    convert(dense, out)
    assert (out / "config.json").is_file()


def test_only_what_a_conversion_leaves_is_no_obstacle(tmp_path: Path) -> None:
    place = tmp_path / "out.replaced"
    check_in_the_way(place, known=False, force=False)
    place.mkdir()
    check_in_the_way(place, known=False, force=False)
    (place / "conversion.json").write_text("{}")
    check_in_the_way(place, known=False, force=False)
    file = tmp_path / "out.journal"
    check_file(file, b'{"key"')
    for left in (b"", b"\n", b'{"key": "k"}\n{"sha'):
        file.write_bytes(left)
        check_file(file, b'{"key"')
    with pytest.raises(OptionError, match="something is in the way"):
        check_file(place, b'{"key"')


@pytest.mark.parametrize("below", ["out", "folder/out"])
def test_a_file_where_a_folder_of_the_target_must_be_is_called_so(
    dense: Path, tmp_path: Path, below: str
) -> None:
    (tmp_path / "notes").write_text("mine")
    done = run(dense, "--out", tmp_path / "notes" / below)
    assert done.exit_code == 1
    assert "can't be written: got a file where a directory must be" in done.stderr
    assert "hint: name a place for the result" in done.stderr
    assert (tmp_path / "notes").read_text() == "mine"


@pytest.mark.parametrize(
    "out", ["a" * 231, "é" * 116, "new/" + "a" * 250, "a/" * 3000 + "a", "a" * 300 + "/b"]
)
def test_a_name_too_long_for_those_beside_it(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    """A bare "File name too long", of a name that nobody gave; or at the end of the work."""
    monkeypatch.chdir(tmp_path)
    for more in ([], ["--dry-run"]):
        done = run("dense", "--out", out, *more)
        assert done.exit_code == 1 and done.stderr.startswith("error: --out is too long a ")
        assert "hint: name another --out" in done.stderr
    assert not (tmp_path / "new").exists()
    assert run("dense", "--out", "a" * 230).exit_code == 0


@pytest.mark.parametrize("source", [".", "./", "..", "../dense/", "~/dense/sub/.."])
def test_a_source_that_is_a_place_has_its_directory_s_name(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (dense / "sub").mkdir()
    monkeypatch.chdir(dense / "sub" if source == ".." else dense)
    assert stem(source) == "dense"
    assert "-4bit" in run(source, "--dry-run").stderr  # and lies in the source
