"""The common form of PEFT's and mlx-lm's adapters: a low-rank update per matrix."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx

from qwen3_mlx.checkpoint.raw import FLOATS, read_tensor
from qwen3_mlx.checkpoint.tensor_info import TensorInfo
from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.config.matrices import weight_shapes
from qwen3_mlx.errors import CheckpointError, ConfigError

CONFIG = "adapter_config.json"
Shape = tuple[int, ...]
Layout = Literal["rows", "columns", "stacked", "parameter"]
"""How a pair is stored: PEFT's ``A [r, in]``, ``B [out, r]``; mlx-lm's ``a [in, r]``,
``b [r, out]``; mlx-lm's experts ``a [E, r, in]``, ``b [E, out, r]``; PEFT's of a stacked
parameter, ``A [E r, in]``, ``B [out, r E]``."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The two stored factors of an update, and the scale of their product."""

    a: TensorInfo
    b: TensorInfo
    scale: float
    layout: Layout
    experts: int = 1
    rows: tuple[int, int] | None = None
    """The rows of B for this matrix, if one pair serves two matrices."""

    def read(self) -> tuple[mx.array, mx.array]:
        """``A [r, in]`` and ``B [out, r]``, or ``[E, r, in]`` and ``[E, out, r]``, in float32."""
        a, b = (_finite(info) for info in (self.a, self.b))
        if self.layout == "columns":
            a, b = a.T, b.T
        elif self.layout == "parameter":
            a = a.reshape(self.experts, -1, a.shape[-1])
            b = b.reshape(b.shape[0], -1, self.experts).transpose(2, 0, 1)
        if self.rows is not None:
            b = b[..., self.rows[0] : self.rows[1], :]
        return a, b * self.scale


def _finite(info: TensorInfo) -> mx.array:
    """The tensor in float32. Raises `CheckpointError` for NaN, whose sum would blame the model."""
    values = read_tensor(info).astype(mx.float32)
    if not mx.isfinite(values).all().item():
        hint = "its training broke down: take an earlier checkpoint of the adapter"
        raise refusal(f"adapter: {info.name}", "NaN or infinity", "numbers", hint)
    return values


@dataclass(frozen=True, slots=True)
class Update:
    """The update ``B A`` of the matrix of `shape` at `path`."""

    path: str
    shape: Shape
    pairs: Mapping[int | None, Pair]
    """One pair under None, or one per expert by its number; other experts have no update."""

    @property
    def tensors(self) -> list[TensorInfo]:
        """The stored tensors."""
        return [info for pair in self.pairs.values() for info in (pair.a, pair.b)]

    def factors(self) -> tuple[mx.array, mx.array]:
        """A and B in float32, with the scale in B: of a matrix, or stacked for experts."""
        if None in self.pairs:
            return self.pairs[None].read()
        read = {number: pair.read() for number, pair in self.pairs.items()}
        rank = max(a.shape[0] for a, _ in read.values())
        nothing = (mx.zeros((rank, self.shape[2])), mx.zeros((self.shape[1], rank)))
        both = [read.get(number, nothing) for number in range(self.shape[0])]
        a = mx.stack([mx.pad(a, [(0, rank - a.shape[0]), (0, 0)]) for a, _ in both])
        b = mx.stack([mx.pad(b, [(0, 0), (0, rank - b.shape[1])]) for _, b in both])
        return a, b


def targets(config: Qwen3Config) -> dict[str, Shape]:
    """Paths and shapes of the linear layers that an adapter may update."""
    shapes = ((path, shape) for path, shape in weight_shapes(config) if len(shape) > 1)
    return {path: shape for path, shape in shapes if path != "model.embed_tokens"}


def refusal(what: str, got: object, expected: object, hint: str | None = None) -> CheckpointError:
    """The error for an adapter whose tensors don't match."""
    return CheckpointError(what, got=got, expected=expected, hint=hint)


def unsupported(key: str, got: object, expected: object, hint: str | None = None) -> ConfigError:
    """The error for a setting that this package doesn't apply."""
    return ConfigError(f"{CONFIG}: {key}", got=repr(got), expected=expected, hint=hint)


_RANK_AXES: Mapping[Layout, tuple[int, int]] = {
    "rows": (0, 1),
    "columns": (1, 0),
    "stacked": (1, 2),
    "parameter": (0, 1),
}


def check_pair(pair: Pair, a: Shape, b: Shape) -> None:
    """Raise `CheckpointError` unless the factors have these shapes, in floats."""
    for info, shape, axis in zip((pair.a, pair.b), (a, b), _RANK_AXES[pair.layout], strict=True):
        if info.dtype not in FLOATS:
            raise refusal(f"adapter: {info.name}", info.dtype, ", ".join(FLOATS))
        if info.shape != shape:
            got, sides = list(info.shape), list(shape)
            hint = "the adapter belongs to another model"
            if len(got) == len(sides) and got[:axis] + got[axis + 1 :] == (
                sides[:axis] + sides[axis + 1 :]
            ):
                hint = f"its rank is not the one that its {CONFIG} gives"
            raise refusal(f"adapter: {info.name}", got, sides, hint)


def both_halves(found: Mapping[str, Mapping[str, TensorInfo]], names: tuple[str, str]) -> None:
    """Raise `CheckpointError` if a module has only one of the two factors."""
    for path, halves in found.items():
        if missing := [name for name in names if name not in halves]:
            got = f"{path} without {missing[0]}"
            raise refusal("adapter: half of it is missing", got, " and ".join(names))


def no_such_modules(paths: Iterable[str], known: Iterable[str]) -> CheckpointError:
    """The error for an adapter of modules that the network lacks."""
    listed = sorted(paths)
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    kinds = sorted({path.rpartition(".")[2] for path in known})
    return refusal(
        "the adapter has modules that the model lacks",
        ", ".join(listed[:3]) + more,
        f"linear layers of this model: {', '.join(kinds)}",
        "the adapter belongs to another model",
    )


def positive(values: Mapping[str, Any], key: str, *, whole: bool) -> float:
    """The number above 0 under `key`. Raises `ConfigError`."""
    value: Any = values.get(key)
    kinds = (int,) if whole else (int, float)
    if type(value) not in kinds or not 0 < value < 1e9:
        raise unsupported(key, value, "a whole number above 0" if whole else "a number above 0")
    number: float = value
    return number
