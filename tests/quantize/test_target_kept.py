"""The source, and what users keep beside a target, outlive conversions, killed ones too."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from qwen3_mlx.cli.app import app
from qwen3_mlx.cli.conversion_source import remote
from qwen3_mlx.cli.terminal.screen import Screen
from qwen3_mlx.config.share import Share
from qwen3_mlx.errors import OptionError
from qwen3_mlx.hub import resolve
from qwen3_mlx.quantize import job, learned, sharing, staging
from qwen3_mlx.quantize.disk import Disk
from qwen3_mlx.quantize.staging import Target
from qwen3_mlx.quantize.target_check import check_in_the_way, check_place
from tests.quantize.build import all_bytes
from tests.quantize.conftest import comes_meanwhile, convert, request

CONFIG = json.dumps({"architectures": ["Qwen3ForCausalLM"]})


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["convert", *map(str, arguments)])


def files(folder: Path) -> dict[Path, bytes]:
    """The files below `folder`."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def foreign(out: Path) -> Path:
    """A checkpoint that no conversion here made."""
    out.mkdir()
    (out / "config.json").write_text(CONFIG)
    for name in ("model.safetensors", "tokenizer.json", "vocab.json"):
        (out / name).write_text("old")
    return out


def folding_case(there: Path, other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `other` a second name of the directory `there`, as on a Mac's disk.

    Where the disk folds case it is already. Elsewhere it is made, and `Path.samefile`, by which
    the disk is asked, answers as such a disk's does.
    """
    if other.exists():
        return
    shutil.copytree(there, other)

    def samefile(one: Path, two: Path) -> bool:
        return str(one.resolve(strict=True)).lower() == str(two.resolve(strict=True)).lower()

    monkeypatch.setattr(Path, "samefile", samefile)


@pytest.mark.parametrize("out", ["DENSE", "DENSE/sub", "Work/Dense"])
def test_the_source_is_known_by_another_spelling(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    source = dense
    if out == "Work/Dense":  # the source lies in what would be replaced
        source = tmp_path / "work/dense/inner"
        shutil.copytree(dense, source)
        folding_case(tmp_path / "work", tmp_path / "Work", monkeypatch)
        if not (tmp_path / out).exists():
            (tmp_path / "Work/dense").rename(tmp_path / out)
    else:
        folding_case(dense, tmp_path / "DENSE", monkeypatch)
    before = all_bytes(source)
    with pytest.raises(OptionError, match="--out lies in the source"):
        convert(source, tmp_path / out, force=True)
    assert all_bytes(source) == before


def test_the_current_and_the_home_directory_are_known_by_another_spelling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "place/here").mkdir(parents=True)
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "place/here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folding_case(tmp_path / "place", tmp_path / "PLACE", monkeypatch)
    folding_case(tmp_path / "home", tmp_path / "HOME", monkeypatch)
    for name, said in [
        ("PLACE/here", "the current directory"),
        ("PLACE", "a directory above the current directory"),
        ("HOME", "the home directory"),
    ]:
        with pytest.raises(OptionError, match=f"--out is {said}"):
            check_place(tmp_path / name)


def test_the_source_behind_a_linked_parent(dense: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(OptionError, match="--out lies in the source"):
        convert(dense, tmp_path / "link/dense", force=True)
    assert (dense / "config.json").is_file()


@pytest.mark.parametrize("through", [False, True])
def test_a_source_whose_files_lie_in_the_target(dense: Path, tmp_path: Path, through: bool) -> None:
    """As links of the hub's cache do; `through`: a link in the target leads on."""
    out, source = tmp_path / "out", tmp_path / "links"
    shutil.copytree(dense, out)
    source.mkdir()
    if through:
        (out / "vocab.json").unlink(missing_ok=True)
        (tmp_path / "blob").write_text("{}")
        (out / "vocab.json").symlink_to(tmp_path / "blob")
    for file in out.iterdir():
        if not through:
            (source / file.name).symlink_to(file)
        elif file.is_symlink():
            (source / file.name).symlink_to(f"../out/{file.name}")
        else:
            shutil.copy(file, source / file.name)
    with pytest.raises(OptionError, match="--out holds files of the source"):
        convert(source, out, force=True)
    assert (source / "config.json").is_file() and (out / "config.json").is_file()


def test_the_source_is_not_what_a_conversion_removes_beside_the_target(
    dense: Path, tmp_path: Path
) -> None:
    for end in ("replaced", "part"):
        source = tmp_path / f"out.{end}"
        shutil.copytree(dense, source)
        (source / "conversion.json").write_text("{}")
        with pytest.raises(OptionError, match="--out lies in the source"):
            convert(source, tmp_path / "out", force=True)
        shutil.rmtree(source)


class Dying(Disk):
    """Dies at the n-th removal of a file that the old result has."""

    def __init__(self, at: int) -> None:
        self.left = at

    def remove(self, path: Path) -> None:
        if "out.replaced" in str(path) or path.suffix in (".journal",):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
        super().remove(path)


@pytest.mark.parametrize("recipe", ["8bit", "6bit"])
@pytest.mark.parametrize("ours", [False, True])
def test_killed_while_the_old_result_is_removed(
    dense: Path, tmp_path: Path, recipe: str, ours: bool
) -> None:
    """The same command goes on, and so does another one that may replace the new result."""
    old, out = tmp_path / "old", tmp_path / "out"
    if ours:
        convert(dense, old)
    else:
        foreign(old)
    convert(dense, tmp_path / "want", recipe)
    for at in range(40):
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(old, out)
        try:
            convert(dense, out, "8bit", force=True, disk=Dying(at))
            break
        except KeyboardInterrupt:
            convert(dense, out, recipe, force=recipe != "8bit")
        assert all_bytes(out) == all_bytes(tmp_path / "want")
        assert not list(tmp_path.glob("out.*"))
    assert 5 < at < 39


def test_half_removed_a_result_is_still_known_by_itself(dense: Path, tmp_path: Path) -> None:
    place = tmp_path / "out.replaced"
    convert(dense, tmp_path / "whole")
    for at in range(40):
        shutil.copytree(tmp_path / "whole", place, dirs_exist_ok=True)
        try:
            staging.remove_checkpoint(Dying(at), place)
            break
        except KeyboardInterrupt:
            check_in_the_way(place, known=False, force=False)
    assert 5 < at < 39 and not place.exists()


@pytest.mark.parametrize("told", ["journal", "record"])
def test_half_of_an_old_result_is_known_by_the_files_beside_it(
    dense: Path, tmp_path: Path, told: str
) -> None:
    out, place = tmp_path / "out", tmp_path / "out.replaced"
    if told == "record":
        convert(dense, out)
    foreign(place)
    (place / "config.json").unlink()
    if told == "journal":
        with pytest.raises(OptionError, match="something is in the way"):
            convert(dense, out)
        (tmp_path / "out.journal").write_text('{"key": "k"}\n')
    (place / "thesis.txt").write_text("mine")
    with pytest.raises(OptionError, match="something is in the way"):
        convert(dense, out)
    (place / "thesis.txt").unlink()
    convert(dense, out)
    assert not list(tmp_path.glob("out.*"))


def test_a_checkpoint_in_the_way_takes_force_or_a_record(tmp_path: Path) -> None:
    place = foreign(tmp_path / "out.replaced")
    check_in_the_way(place, known=False, force=True)
    with pytest.raises(OptionError, match="something is in the way"):
        check_in_the_way(place, known=False, force=False)


def test_a_killed_learned_run_begins_again(dense: Path, tmp_path: Path) -> None:
    out, made = tmp_path / "out", tmp_path / "out.dwq"
    asked = job.prepare(request(dense, out))

    def dying(_method: str, _arguments: list[str]) -> None:  # mlx-lm writes the weights first
        made.mkdir()
        (made / "model.safetensors").write_text("half")
        raise KeyboardInterrupt

    def copying(_method: str, arguments: list[str]) -> None:
        shutil.copytree(arguments[arguments.index("--quantized-model") + 1], made)

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            learned.run(asked, "dwq", run=dying)
    learned.run(asked, "dwq", run=copying)
    assert [path.name for path in tmp_path.glob("out*")] == ["out"]
    shutil.rmtree(out)
    made.mkdir()
    (made / "model.safetensors").write_text("the user's")
    with pytest.raises(OptionError, match="something is in the way"):
        learned.run(asked, "dwq", run=copying)
    assert (made / "model.safetensors").read_text() == "the user's"


def test_litter_and_the_hubs_own_files_are_no_obstacle(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in (".DS_Store", "._model.safetensors"):
        (out / name).write_text("of macOS")
    convert(dense, out)  # without force: it counts as empty
    assert (out / "conversion.json").is_file() and not (out / ".DS_Store").exists()
    shutil.rmtree(out)
    foreign(out)
    for name in (".DS_Store", "._notes", ".gitattributes", "quantize_config.json"):
        (out / name).write_text("of no use")
    (out / ".cache/huggingface/download").mkdir(parents=True)
    convert(dense, out, force=True)
    assert not (out / ".cache").exists()
    (tmp_path / "new.source").mkdir()
    (tmp_path / "new.source/.DS_Store").write_text("of macOS")
    monkeypatch.setattr("qwen3_mlx.hub.remote_files.RemoteFiles", lambda *_: "fetches")
    assert remote("someone/model", tmp_path / "new", Screen()) is not None


def without(name: str) -> Callable[[Path], None]:
    return lambda out: (out / name).unlink()


def with_text(name: str, text: str) -> Callable[[Path], None]:
    def write(out: Path) -> None:
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text(text)

    return write


@pytest.mark.parametrize(
    "change, said",
    [
        (with_text("config.json", "{}"), "a config.json of no model"),
        (with_text("config.json", '["model_type"]'), "a config.json of no model"),
        (with_text("config.json", "theme = dark"), "a config.json of no model"),
        (without("model.safetensors"), "no weights in it"),
        (with_text("modelling_notes.safetensors", ""), "got modelling_notes.safetensors in it"),
        (with_text("model-best.safetensors", ""), "got model-best.safetensors in it"),
        (with_text(".cache/pip", ""), "got .cache/ in it"),
        (with_text("._folder/thesis.txt", ""), "got ._folder/ in it"),
    ],
)
def test_what_only_looks_like_a_checkpoint(
    dense: Path, tmp_path: Path, change: Callable[[Path], None], said: str
) -> None:
    out = foreign(tmp_path / "out")
    change(out)
    before = files(out)
    with pytest.raises(OptionError) as caught:
        convert(dense, out, force=True)
    assert said in str(caught.value)
    assert files(out) == before


@pytest.mark.parametrize("force", [False, True])
def test_a_checkpoint_that_comes_while_it_converts_takes_force(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    out = tmp_path / "out"
    comes_meanwhile(monkeypatch, lambda: foreign(out))
    if force:
        convert(dense, out, force=True)
        assert (out / "conversion.json").is_file()
    else:
        with pytest.raises(OptionError, match="the target exists"):
            convert(dense, out)
        assert (out / "model.safetensors").read_text() == "old"


@pytest.mark.parametrize(
    "name",
    ["thesis.txt", "notes/a.txt", "model.safetensors", "model-share-00001-of-00003.safetensors"],
)
def test_shares_do_not_grow_in_a_users_folder(tmp_path: Path, name: str) -> None:
    mine, target = tmp_path / "out.part" / name, Target(tmp_path / "out", "key")
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(OptionError, match="a directory is in the way"):
        sharing.share_out(resolve.resolve("demo-tools"), target, Share(0, 2), {})
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [mine]


def test_a_finished_whole_of_the_users_outlives_sharing_out(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    typed = ("dense", "--recipe", "8bit", "--no-verify", "--out")
    shares = ("--shares", 2, "--pipeline")
    assert run(*typed, "two.whole").exit_code == 0
    before = all_bytes(tmp_path / "two.whole")
    for _ in range(2):
        assert run(*typed, "two", *shares).exit_code == 0
        assert all_bytes(tmp_path / "two.whole") == before
    other = run("dense", "--recipe", "6bit", "--no-verify", "--out", "two", *shares, "--force")
    assert other.exit_code == 1 and "got two.whole" in other.stderr
    assert all_bytes(tmp_path / "two.whole") == before
    inner = sharing.share_out

    def dying(*_: object) -> None:
        raise OptionError("killed", got="here")

    monkeypatch.setattr(sharing, "share_out", dying)
    assert "killed" in run(*typed, "new", *shares).stderr
    assert (tmp_path / "new.whole").is_dir()
    monkeypatch.setattr(sharing, "share_out", inner)
    assert run(*typed, "new", *shares).exit_code == 0
    assert [path.name for path in tmp_path.glob("new*")] == ["new"]
