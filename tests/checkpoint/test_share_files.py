"""One machine's file of a split checkpoint: found, and refused where it isn't the right one."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from qwen3_mlx.checkpoint import load_network
from qwen3_mlx.checkpoint.check import array_findings, check
from qwen3_mlx.checkpoint.headers import checkpoint_tensors
from qwen3_mlx.checkpoint.share_files import own_tensors, ranks_here, read_shares, tensors_of
from qwen3_mlx.config.share import Share
from qwen3_mlx.config.shares import Shares
from qwen3_mlx.errors import CheckpointError
from qwen3_mlx.hub import resolve
from qwen3_mlx.quantize import sharing
from qwen3_mlx.quantize.staging import Target

WAYS = {
    "attention split": Share(0, 2),
    "attention whole": Share(0, 2, attention=False),
    "pipeline": Share(0, 2, pipeline=True),
}


def split_up(folder: Path, way: str) -> tuple[Path, Shares]:
    """The smallest bundled model, split between two machines."""
    out = folder / way
    sharing.share_out(resolve.resolve("demo"), Target(out, "key"), WAYS[way], {})
    shares = read_shares(out)
    assert shares is not None
    return out, shares


@pytest.fixture
def halves(tmp_path: Path) -> tuple[Path, Shares]:
    return split_up(tmp_path, "attention split")


def test_a_whole_checkpoint_has_no_shares() -> None:
    whole = resolve.resolve("demo")
    assert read_shares(whole) is None
    assert tensors_of(whole, Share(1, 2)) == checkpoint_tensors(whole)


@pytest.mark.parametrize("way", WAYS)
def test_a_machine_s_file_alone_gives_its_part_of_the_network(tmp_path: Path, way: str) -> None:
    folder, shares = split_up(tmp_path, way)
    for rank in (1, 0):
        hidden = folder / shares.name(1 - rank)
        hidden.rename(tmp_path / "elsewhere")
        assert ranks_here(folder, shares) == [rank]
        share = shares.share(rank)
        assert own_tensors(folder, shares, share) == tensors_of(folder, share)
        own, want = (
            dict(tree_flatten(load_network(path, share=share)[0].parameters()))
            for path in (folder, resolve.resolve("demo"))
        )
        assert own.keys() == want.keys()
        assert all(mx.array_equal(own[name], want[name]) for name in want)
        found = [str(finding) for finding in check(folder)]
        here = f"shared out to 2 machines, {way}; here is share {rank + 1}: "
        assert len(found) == 1 and here in found[0], found
        assert not list(array_findings(folder))
        (tmp_path / "elsewhere").rename(hidden)


def test_shares_that_are_here_are_counted_from_one(halves: tuple[Path, Shares]) -> None:
    folder, shares = halves
    assert ranks_here(folder, shares) == [0, 1]
    assert "here is share 1 and 2:" in check(folder)[0].text
    for rank in (0, 1):
        (folder / shares.name(rank)).unlink()
    assert "here is share none:" in check(folder)[0].text


def test_a_machine_whose_file_is_not_here_is_told_what_is(halves: tuple[Path, Shares]) -> None:
    folder, shares = halves
    (folder / shares.name(1)).unlink()
    with pytest.raises(CheckpointError, match=r"00002-of-00002\.safetensors is missing") as caught:
        own_tensors(folder, shares, Share(1, 2))
    assert f"got {shares.name(0)}, expected {shares.name(1)}" in str(caught.value)
    assert "has rank 1" in str(caught.value)
    assert own_tensors(folder, shares, Share(0, 2))
    (folder / shares.name(0)).unlink()
    with pytest.raises(CheckpointError, match="got none of its files"):
        own_tensors(folder, shares, Share(0, 2))


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (Share(0, 3), "got 2 machines, attention split, expected 3 machines, attention split"),
        (Share(0, 2, attention=False), "expected 2 machines, attention whole"),
        (Share(0, 2, pipeline=True), "expected 2 machines, pipeline"),
        (Share(0, 1), "qwen3-mlx launch"),
    ],
)
def test_another_division_is_refused(halves: tuple[Path, Shares], share: Share, words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        own_tensors(*halves, share)


def test_a_file_of_another_checkpoint_is_refused(halves: tuple[Path, Shares]) -> None:
    folder, shares = halves
    file = folder / shares.name(0)
    whole = file.read_bytes()
    for cut in (whole[:-1], whole + b"\0"):
        file.write_bytes(cut)
        with pytest.raises(CheckpointError, match="of another checkpoint, or cut short") as caught:
            own_tensors(folder, shares, Share(0, 2))
        assert f"got {len(cut):,} bytes, expected {len(whole):,}" in str(caught.value)
    half = len(whole) // 2  # where one of the samples begins by which a file is known
    file.write_bytes(whole[:half] + bytes([whole[half] ^ 1]) + whole[half + 1 :])
    with pytest.raises(CheckpointError, match="is of another checkpoint: got"):
        own_tensors(folder, shares, Share(0, 2))
    assert [finding.severity for finding in check(folder)] == ["error", "note"]
    file.write_bytes(whole)
    assert own_tensors(folder, shares, Share(0, 2))
