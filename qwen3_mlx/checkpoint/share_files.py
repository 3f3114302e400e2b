"""Finds and checks one machine's file of a checkpoint that is split among machines."""

from __future__ import annotations

from pathlib import Path

from qwen3_mlx.checkpoint.fingerprint import digest_of_file
from qwen3_mlx.checkpoint.headers import checkpoint_tensors, read_header
from qwen3_mlx.checkpoint.tensor_info import TensorInfo
from qwen3_mlx.config.share import Share
from qwen3_mlx.config.shares import Shares, several_machines_error, shares_of
from qwen3_mlx.errors import CheckpointError
from qwen3_mlx.files import read_config


def read_shares(directory: str | Path) -> Shares | None:
    """The block ``shares`` of config.json; None for a whole checkpoint. Raises `ConfigError`."""
    return shares_of(read_config(Path(directory)))


def tensors_of(directory: Path, share: Share) -> dict[str, TensorInfo]:
    """The tensors from which this machine reads: all of a whole checkpoint, or its own file's.

    Raises as `checkpoint_tensors` and `own_tensors`.
    """
    shares = read_shares(directory)
    return (
        checkpoint_tensors(directory) if shares is None else own_tensors(directory, shares, share)
    )


def ranks_here(directory: Path, shares: Shares) -> list[int]:
    """The ranks whose files are in `directory`."""
    return [rank for rank in range(shares.count) if (directory / shares.name(rank)).is_file()]


def own_tensors(directory: Path, shares: Shares, share: Share) -> dict[str, TensorInfo]:
    """The tensors in this machine's file, by their names in the whole checkpoint.

    Raises `CheckpointError` if the files are for another division or this machine's is missing.
    """
    here = [shares.name(rank) for rank in ranks_here(directory, shares)]
    if share.size == 1:
        raise several_machines_error(here, shares.way, shares.launch)
    if (share.size, share.way) != (shares.count, shares.way):
        raise CheckpointError(
            "the checkpoint is shared out otherwise",
            got=shares.description,
            expected=f"{share.size} machines, {share.way}",
            hint=f"launch it so, or share it out again: qwen3-mlx convert --shares {share.size}",
        )
    file = directory / shares.name(share.rank)
    if not file.is_file():
        got = ", ".join(here) or "none of its files"
        hint = f"copy it to this machine, which has rank {share.rank}"
        raise CheckpointError(f"{file.name} is missing", got=got, expected=file.name, hint=hint)
    check_file(file, shares, share.rank)
    return read_header(file)


def check_file(file: Path, shares: Shares, rank: int) -> None:
    """Raise `CheckpointError` for a machine's file that is damaged or of another checkpoint."""
    size, digest = shares.files[rank]
    got = file.stat().st_size
    if got != size:
        hint = "copy it again from where the shares were made"
        raise CheckpointError(
            f"{file.name} is of another checkpoint, or cut short",
            got=f"{got:,} bytes",
            expected=f"{size:,}",
            hint=hint,
        )
    found = digest_of_file(file)
    if found != digest:
        raise CheckpointError(
            f"{file.name} is of another checkpoint",
            got=found[:12],
            expected=digest[:12],
            hint="have all machines hold files of the same conversion",
        )
