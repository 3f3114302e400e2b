"""`convert --shares`: a file a machine, which everything knows from a whole checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from typer.testing import CliRunner, Result

from qwen3_mlx import load
from qwen3_mlx.checkpoint import load_network, raw
from qwen3_mlx.checkpoint.check import array_findings, check
from qwen3_mlx.checkpoint.share_files import read_shares
from qwen3_mlx.cli.app import app
from qwen3_mlx.config.share import Share
from qwen3_mlx.errors import CheckpointError, ConfigError
from qwen3_mlx.group import versions
from qwen3_mlx.hub import resolve
from qwen3_mlx.quantize import room, sharing
from qwen3_mlx.quantize.disk import Disk
from qwen3_mlx.quantize.staging import Target

WAYS = {
    "attention split": Share(0, 2),
    "attention whole": Share(0, 2, attention=False),
    "pipeline": Share(0, 2, pipeline=True),
}
NAMES = ("demo", "demo-moe", "demo-tools")


def shared_out(source: Path, out: Path, share: Share) -> Path:
    sharing.share_out(source, Target(out, "key"), share, {})
    return out


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """The bundled models, shared out to two machines each way."""
    folder = tmp_path_factory.mktemp("shared")
    return {
        (name, way): shared_out(resolve.resolve(name), folder / f"{name} {way}", share)
        for name in NAMES
        for way, share in WAYS.items()
        if not list(share.faults(load_network(resolve.resolve(name))[1]))
    }


def parameters(path: Path, share: Share) -> dict[str, mx.array]:
    found: dict[str, mx.array] = dict(tree_flatten(load_network(path, share=share)[0].parameters()))
    return found


def test_each_machine_loads_from_its_file_what_it_would_from_the_whole(
    shared: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    """Its own file is all that it needs, and no machine's is much larger than its part."""
    assert len(shared) >= 7
    for (name, way), path in shared.items():
        shares = read_shares(path)
        assert shares is not None
        assert shares.way == way
        whole = resolve.resolve(name)
        for rank in (0, 1):
            alone = tmp_path / f"{name} {way} {rank}"
            other = shares.name(1 - rank)
            shutil.copytree(path, alone, ignore=lambda _, found, other=other: {other} & {*found})
            share = shares.share(rank)
            own, wanted = parameters(alone, share), parameters(whole, share)
            assert own.keys() == wanted.keys()
            assert all(mx.array_equal(own[key], wanted[key]) for key in wanted)
            stored = sum(tensor.nbytes for tensor in sharing.own_tensors(whole, share))
            assert shares.files[rank][0] <= stored + 2 * 16_384
            assert [str(f.severity) for f in check(alone)] == ["note"], check(alone)
            assert not list(array_findings(alone))


def test_only_the_own_file_is_read(
    shared: dict[tuple[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    inner = mx.load

    def noted(file: str) -> object:
        read.append(Path(file).name)
        return inner(file)

    monkeypatch.setattr(mx, "load", noted)
    monkeypatch.setattr(raw, "_read", lambda *_: pytest.fail("a part of a tensor was read"))
    load_network(shared["demo-moe", "attention split"], share=Share(1, 2))
    assert {*read} == {"model-share-00002-of-00002.safetensors"}


def refused(path: Path, share: Share) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_network(path, share=share)
    return str(caught.value)


def test_a_share_is_no_whole_and_goes_with_its_own_group(
    shared: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    path = shared["demo", "pipeline"]
    with pytest.raises(CheckpointError, match="got share 1 and 2 of 2 here, pipeline") as caught:
        load(path)
    assert "qwen3-mlx launch --hosts A,B --pipeline" in str(caught.value)
    assert "otherwise: got 2 machines, pipeline, expected 3 machines, pipeline" in refused(
        path, Share(0, 3, pipeline=True)
    )
    assert "expected 2 machines, attention split" in refused(path, Share(0, 2))
    copy = shutil.copytree(path, tmp_path / "one")
    (copy / "model-share-00002-of-00002.safetensors").unlink()
    said = refused(copy, Share(1, 2, pipeline=True))
    assert "00002-of-00002.safetensors is missing: got model-share-00001-of-00002" in said


def test_a_share_of_another_conversion_is_refused(
    shared: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    """Its header names the whole checkpoint that it is of, so it differs where sizes are equal."""
    path = shutil.copytree(shared["demo", "pipeline"], tmp_path / "mixed")
    file = path / "model-share-00002-of-00002.safetensors"
    before, data = versions.digest(path), file.read_bytes()
    other = bytearray(data)
    other[data.index(b'"of":"') + 6] ^= 1
    file.write_bytes(other)
    said = refused(path, Share(1, 2, pipeline=True))
    assert "model-share-00002-of-00002.safetensors is of another checkpoint: got " in said
    assert [str(finding.severity) for finding in check(path)] == ["error", "note"]
    file.write_bytes(data + b"x")
    assert f"expected {len(data):,}" in refused(path, Share(1, 2, pipeline=True))
    assert versions.digest(path) == before  # a machine knows the others' files by config.json alone
    assert versions.digest(shared["demo", "attention split"]) != before


@pytest.mark.parametrize("block", [{"way": "pipeline"}, {"files": []}, {"files": [1, 2]}, []])
def test_a_damaged_block_is_refused(
    shared: dict[tuple[str, str], Path], tmp_path: Path, block: object
) -> None:
    path = shutil.copytree(shared["demo", "pipeline"], tmp_path / "odd")
    values = json.loads((path / "config.json").read_text())
    values["shares"] = {**values["shares"], **block} if isinstance(block, dict) else [1]
    if block == {"way": "pipeline"}:
        values["shares"]["way"] = "by the moon"
    (path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=r"config\.json: shares"):
        load_network(path, share=Share(0, 2, pipeline=True))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_as_it_is_typed(dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Converted first and the whole removed, done already, packed before, told by info."""
    monkeypatch.chdir(tmp_path)
    typed = ("convert", dense, "--recipe", "8bit", "--shares", 2, "--pipeline", "--out", "two")
    done = run(*typed)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("two: shared out to 2 machines, pipeline\nmodel-share-00001-of-")
    assert not list(tmp_path.glob("two.*"))
    record = json.loads((tmp_path / "two" / "conversion.json").read_text())
    assert record["measured"] is not None
    before = (tmp_path / "two" / "config.json").stat().st_mtime_ns
    assert run(*typed).stdout == done.stdout
    assert (tmp_path / "two" / "config.json").stat().st_mtime_ns == before
    assert "--force" in run(*typed[:3], "6bit", *typed[4:]).output
    told = run("info", "two")
    assert "shared out to 2 machines, pipeline" in told.stdout
    assert json.loads(run("info", "two", "--json").stdout)["shares"]["count"] == 2
    again = run("convert", "two", "--shares", 2, "--out", "three")
    assert again.exit_code == 1
    assert "got share 1 and 2 of 2 here" in again.stderr
    assert run("convert", dense, "--recipe", "8bit", "--out", "whole", "--no-verify").exit_code == 0
    packed = run("convert", "whole", "--shares", 2, "--pipeline", "--out", "four")
    assert "packed already: its tensors are shared out as they are" in packed.stderr
    for rank in (1, 2):
        name = f"model-share-0000{rank}-of-00002.safetensors"
        assert (tmp_path / "four" / name).stat().st_size == (tmp_path / "two" / name).stat().st_size
    split = run("convert", dense, "--recipe", "4bit", "--shares", 2, "--out", "five")
    assert "groups of 64 in a row of" in split.stderr
    assert not (tmp_path / "five.whole").exists()  # said before anything is converted


def test_the_whole_and_its_shares_have_room_before_anything_is_converted(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room for the whole alone, hours of conversion ended in a refusal of the shares."""
    typed = ("convert", dense, "--recipe", "8bit", "--pipeline", "--no-verify", "--shares", 2)
    assert run(*typed[:3], "8bit", "--out", tmp_path / "one", "--no-verify").exit_code == 0
    size = sum(file.stat().st_size for file in (tmp_path / "one").iterdir())
    monkeypatch.setattr(Disk, "free_bytes", lambda self, path: room.MARGIN + size)
    before = sorted(tmp_path.iterdir())
    refused = run(*typed, "--out", tmp_path / "two")
    assert refused.exit_code == 1 and "not enough space on the disk" in refused.stderr
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--shares", "1"], "expected 2 to 16 machines"),
        (["--shares", "2", "--attention", "half"], "expected split or whole"),
        (["--shares", "2", "--attention", "whole", "--pipeline"], "--pipeline and --attention"),
        (["--shares", "2", "--upload", "me/it"], "--shares: got --upload"),
        (["--shares", "2", "--dry-run"], "--shares: got --dry-run"),
        (["--shares", "3"], "--pipeline takes any number up to 2"),
        (["--shares", "3", "--pipeline"], "got 2 layers, expected at least 3"),
    ],
)
def test_what_can_t_be_shared_out(dense: Path, more: list[str], said: str) -> None:
    assert said in run("convert", dense, *more).stderr


def test_a_run_that_was_cut_off_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = resolve.resolve("demo-tools"), Target(tmp_path / "out", "key")
    inner, written = sharing._write, list[str]()

    def failing(target: Target, file: Path, *others: object) -> None:
        written.append(file.name)
        if len(written) == 2:
            raise KeyboardInterrupt
        inner(target, file, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(sharing, "_write", failing)
    with pytest.raises(KeyboardInterrupt):
        sharing.share_out(source, target, Share(0, 2), {})
    assert not target.out.exists()
    sharing.share_out(source, target, Share(0, 2), {})
    assert written[1:] == ["model-share-00002-of-00002.safetensors"] * 2
    assert not list(tmp_path.glob("out.*"))
    assert parameters(target.out, Share(1, 2)).keys()
