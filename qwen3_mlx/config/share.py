"""The share of a network that one of several machines holds, for tensor or pipeline parallelism.

Tensor parallelism splits attention by heads and every feed-forward network or expert by its inner
size (arXiv 1909.08053 §3): the first matrices by rows, the last by columns, and the machines'
outputs are summed. Embedding, norms, routers and head are whole on every machine.
In a pipeline (arXiv 1811.06965) each machine holds whole layers and sends its output to the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from qwen3_mlx.config.matrices import weight_shapes
from qwen3_mlx.config.network import Qwen3Config
from qwen3_mlx.config.stages import path_there, stage_config, stages
from qwen3_mlx.errors import OptionError, shown

Split = Literal["whole", "rows", "columns"]
"""How a matrix ``[..., out, in]`` is split: not at all, by `out`, or by `in`."""

_SPLITS: dict[str, Split] = {
    "self_attn.q_proj": "rows",
    "self_attn.k_proj": "rows",
    "self_attn.v_proj": "rows",
    "self_attn.o_proj": "columns",
    "mlp.gate_proj": "rows",
    "mlp.up_proj": "rows",
    "mlp.down_proj": "columns",
}


@dataclass(frozen=True, slots=True)
class Share:
    """The share of machine `rank` of `size`."""

    rank: int
    size: int
    attention: bool = True
    """Whether attention is split. If not, a layer needs one all-reduce instead of two."""
    pipeline: bool = False
    """Whether each machine holds whole layers, and nothing is split."""

    @property
    def way(self) -> str:
        """How the model is divided, in words; a key of `WAYS`."""
        return PIPELINE if self.pipeline else f"attention {'split' if self.attention else 'whole'}"

    @property
    def holds_ends(self) -> bool:
        """Whether this machine holds embedding, last norm and head."""
        return not self.pipeline or self.rank == 0

    def weight_shapes(self, whole: Qwen3Config) -> list[tuple[str, tuple[int, ...]]]:
        """Paths and shapes of this machine's weights under its own names. Raises as `config`."""
        shapes = weight_shapes(self.config(whole))
        return [(p, s) for p, s in shapes if self.holds_ends or p.startswith("model.layers.")]

    def layers(self, whole: Qwen3Config) -> range:
        """The layers that this machine computes: its own in a pipeline, else all."""
        if not self.pipeline:
            return range(whole.num_hidden_layers)
        return stages(whole, self.size)[self.rank]

    def names(self, whole: Qwen3Config, names: Iterable[str]) -> dict[str, str]:
        """Those of `names` that this machine holds, mapped to its own names for them."""
        if not self.pipeline:
            return {name: name for name in names}
        layers = self.layers(whole)
        return {name: part for name in names if (part := path_there(name, layers)) is not None}

    def split(self, path: str) -> Split:
        """How the module at `path` is split."""
        name = ".".join(path.replace("switch_mlp", "mlp").split(".")[-2:])
        if self.size == 1 or self.pipeline or (name.startswith("self_attn") and not self.attention):
            return "whole"
        return _SPLITS.get(name, "whole")

    def part(self, path: str, shape: Sequence[int]) -> tuple[slice, ...]:
        """The slices of this machine's part of a tensor (weight, scales or biases) at `path`."""
        split = self.split(path)
        if split == "whole":
            return tuple(slice(0, size) for size in shape)
        axis = len(shape) - (2 if split == "rows" else 1)
        each = shape[axis] // self.size
        part = slice(self.rank * each, (self.rank + 1) * each)
        return tuple(part if i == axis else slice(0, size) for i, size in enumerate(shape))

    def config(self, whole: Qwen3Config) -> Qwen3Config:
        """The configuration of this machine's part: its heads, feed-forward sizes or layers.

        Raises `OptionError` if the parts would not be equal.
        """
        if faults := list(self.faults(whole)):
            count = f"{len(faults)} sizes, " if len(faults) > 1 else ""
            raise OptionError(
                f"the model can't be shared out to {self.size} machines",
                got=f"{count}{faults[0]}",
                expected=f"at least {self.size}" if self.pipeline else f"a multiple of {self.size}",
                hint=self._hint(whole),
            )
        if self.pipeline:
            return stage_config(whole, self.layers(whole))
        n = self.size
        heads = n if self.attention else 1
        dense = any(not whole.is_moe_layer(i) for i in range(whole.num_hidden_layers))
        return replace(
            whole,
            num_attention_heads=whole.num_attention_heads // heads,
            num_key_value_heads=whole.num_key_value_heads // heads,
            intermediate_size=whole.intermediate_size // (n if dense else 1),
            moe_intermediate_size=whole.moe_intermediate_size // n,
        )

    def _hint(self, whole: Qwen3Config) -> str:
        """A hint with the numbers of machines that can divide the model."""
        if self.pipeline:
            return f"a machine holds a layer at least: up to {whole.num_hidden_layers} can share it"
        fits = [n for n in range(2, 17) if not any(replace(self, rank=0, size=n).faults(whole))]
        could = f"{' or '.join(map(str, fits)) or 'no'} machines can share it"
        most = min(whole.num_hidden_layers, 16)
        return f"{could}; --pipeline takes any number up to {most}" if most > 1 else could

    def faults(self, whole: Qwen3Config) -> Iterator[str]:
        """The sizes not divisible by `size`, a phrase each; in a pipeline, too few layers."""
        n = self.size
        if self.pipeline:
            if whole.num_hidden_layers < n:
                yield f"{whole.num_hidden_layers} layers"
            return
        if self.attention:
            if whole.num_key_value_heads % n:
                yield f"{whole.num_key_value_heads} key/value heads"
            if whole.num_attention_heads % n:
                yield f"{whole.num_attention_heads} query heads"
        seen = set()
        for path, shape in weight_shapes(whole):
            split = self.split(path)
            if split == "whole":
                continue
            fault = self._fault(whole, path, shape[-2 if split == "rows" else -1], split)
            if fault and fault not in seen:
                seen.add(fault)
                yield fault

    def _fault(self, whole: Qwen3Config, path: str, size: int, split: Split) -> str:
        name = path.rpartition(".")[2]
        spec = whole.quantization.spec(path) if whole.quantization else None
        if split == "columns" and spec is not None:
            groups, left = divmod(size, spec.group_size)
            if left or groups % self.size:
                return f"{size / spec.group_size:g} groups of {spec.group_size} in a row of {name}"
        return f"{size} {'rows' if split == 'rows' else 'columns'} of {name}" * bool(
            size % self.size
        )


PIPELINE = "pipeline"
WAYS = {"attention split": (True, False), "attention whole": (False, False), PIPELINE: (True, True)}
"""`Share.attention` and `Share.pipeline` by `Share.way`."""


def from_options(rank: int, size: int, attention: str, pipeline: bool) -> Share:
    """The share of machine `rank` by the command line's options. Raises `OptionError`."""
    if attention not in ("split", "whole"):
        raise OptionError("--attention", got=shown(attention), expected="split or whole")
    if pipeline and attention == "whole":
        hint = "a pipeline splits nothing: leave --attention out"
        raise OptionError("--pipeline and --attention", got="both", expected="one", hint=hint)
    return Share(rank, size, attention == "split", pipeline)


WHOLE_NETWORK = Share(0, 1)
"""The share of a single machine: the whole network."""
