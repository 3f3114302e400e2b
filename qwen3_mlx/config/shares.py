"""The block ``shares`` in the config.json of a checkpoint that is split among machines.

``qwen3-mlx convert --shares`` writes it; the rest of config.json describes the whole network.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwen3_mlx.config.share import PIPELINE, WAYS, Share
from qwen3_mlx.config.values import block as block_of
from qwen3_mlx.errors import CheckpointError, ConfigError, brief

KEY = "shares"
"""The block's key in config.json."""
_NAME = re.compile(r"model-share-(\d{5})-of-(\d{5})\.safetensors")


@dataclass(frozen=True, slots=True)
class Shares:
    """The machines' files of a split checkpoint."""

    way: str
    """As `Share.way`."""
    of: str
    """A digest of the whole checkpoint."""
    files: tuple[tuple[int, str], ...]
    """Size and digest of each machine's file."""

    @property
    def count(self) -> int:
        """The number of machines."""
        return len(self.files)

    @property
    def description(self) -> str:
        """In words: ``2 machines, attention split``."""
        return f"{self.count} machines, {self.way}"

    @property
    def launch(self) -> str:
        """The command that runs it."""
        way = {"attention whole": " --attention whole", PIPELINE: " --pipeline"}.get(self.way, "")
        return f"qwen3-mlx launch --hosts {','.join('ABCDEFGHIJKLMNOP'[: self.count])}{way} chat …"

    def block(self) -> dict[str, Any]:
        """The block for config.json."""
        files = [{"bytes": size, "digest": digest} for size, digest in self.files]
        return {"count": self.count, "way": self.way, "of": self.of, "files": files}

    def share(self, rank: int) -> Share:
        """The share of machine `rank`."""
        attention, pipeline = WAYS[self.way]
        return Share(rank, self.count, attention, pipeline)

    def name(self, rank: int) -> str:
        """The file name of machine `rank`."""
        return f"model-share-{rank + 1:05d}-of-{self.count:05d}.safetensors"


def shares_of(values: Mapping[str, Any]) -> Shares | None:
    """Read the block from the values of config.json; None without it. Raises `ConfigError`."""
    block = block_of(values, KEY)
    if not block:
        return None
    try:
        files = tuple((int(file["bytes"]), str(file["digest"])) for file in block["files"])
        found = Shares(str(block["way"]), str(block["of"]), files)
    except (KeyError, TypeError, ValueError):
        found = None
    if found is None or found.way not in WAYS or not 2 <= found.count <= 16:
        hint = "take config.json from where the shares were made"
        raise ConfigError(f"config.json: {KEY}", got=brief(block), hint=hint)
    return found


def is_share(name: str) -> bool:
    """Whether `name` is the name of one machine's file."""
    return _NAME.fullmatch(name) is not None


def several_machines_error(
    names: Sequence[str], way: str = "", launch: str = "qwen3-mlx launch"
) -> CheckpointError:
    """The error for loading the shares `names` without the other machines."""
    found = [match for name in names if (match := _NAME.fullmatch(name))]
    here = " and ".join(str(int(match[1])) for match in found) or "none"
    count = f" of {int(found[0][2])}" if found else ""
    return CheckpointError(
        "the checkpoint is shared out to several machines",
        got=f"share {here}{count} here{f', {way}' if way else ''}",
        expected="a whole checkpoint, or a group of machines",
        hint=f"{launch} runs it; convert without --shares writes a whole one",
    )
