"""Cached access to a model directory's JSON files, headers and vocabulary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from qwen3_mlx.checkpoint.headers import checkpoint_tensors, weight_files
from qwen3_mlx.checkpoint.match import named_tensors
from qwen3_mlx.checkpoint.share_files import own_tensors, ranks_here
from qwen3_mlx.checkpoint.tensor_info import TensorInfo
from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.config.share import WHOLE_NETWORK, Share
from qwen3_mlx.config.shares import Shares, shares_of
from qwen3_mlx.files import read_config, read_json

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A contradiction between files. An error certainly gives wrong answers; a note is harmless."""

    severity: Severity
    text: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.text}"


class Files:
    """A model directory; every file is read once. Reading raises `Qwen3Error`."""

    def __init__(self, directory: str | Path, share: Share = WHOLE_NETWORK) -> None:
        self.directory, self.share = Path(directory), share

    @cached_property
    def values(self) -> dict[str, Any]:
        """The parsed config.json."""
        return read_config(self.directory)

    @cached_property
    def config(self) -> Qwen3Config:
        """The configuration, without another tool's packing."""
        mlx = self.values.get("quantization")
        gone = () if mlx or is_mlx(self.values) else ("quantization_config",)
        return Qwen3Config.from_dict({k: v for k, v in self.values.items() if k not in gone})

    @cached_property
    def stored(self) -> dict[str, TensorInfo]:
        """The tensors by their stored names; empty if there are no weights."""
        if self.shares is not None:
            if self.share.size == 1:
                return {}  # the machines' files have them: `parts`
            tensors = own_tensors(self.directory, self.shares, self.share)
            return {own: tensors[n] for n, own in self.share.names(self.config, tensors).items()}
        return checkpoint_tensors(self.directory) if weight_files(self.directory).names else {}

    @cached_property
    def shares(self) -> Shares | None:
        """The machines among which the weights are split, if they are."""
        return shares_of(self.values)

    def parts(self) -> list[Files]:
        """This directory, or one `Files` per machine whose file is here."""
        if self.shares is None:
            return [self]
        ranks = ranks_here(self.directory, self.shares)
        return [Files(self.directory, self.shares.share(rank)) for rank in ranks]

    @cached_property
    def tensors(self) -> dict[str, TensorInfo]:
        """The tensors by Qwen's names."""
        return named_tensors(self.stored)

    def json(self, name: str) -> dict[str, Any]:
        """The parsed JSON file `name`; empty if it is missing."""
        return read_json(self.directory / name)

    @cached_property
    def token_ids(self) -> dict[str, int]:
        """The vocabulary of tokenizer.json with its added tokens; empty if it is missing."""
        file = self.json("tokenizer.json")
        model = file.get("model")
        vocabulary = model.get("vocab") if isinstance(model, dict) else None
        known = {name: n for name, n in pairs(vocabulary) if type(n) is int}
        added = file.get("added_tokens")
        for token in added if isinstance(added, list) else ():
            if isinstance(token, dict) and type(token.get("id")) is int:
                known[str(token.get("content"))] = token["id"]
        return known


def pairs(value: Any) -> Iterable[tuple[str, Any]]:
    """The items of an object; none for anything else."""
    return value.items() if isinstance(value, dict) else ()


def is_mlx(values: Mapping[str, Any]) -> bool:
    """Whether ``quantization_config`` describes MLX's own packing."""
    block = values.get("quantization_config")
    return isinstance(block, dict) and block.get("quant_method", "mlx") == "mlx"
