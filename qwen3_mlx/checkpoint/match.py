"""Matches stored tensors to the network's parameters, in every layout in use.

`named_tensors` renames a checkpoint's tensors to Hugging Face's names, removing trainers' prefixes.
`find_parameter` finds the tensors of a parameter, and `difference_error` describes what doesn't
match, with a hint for the cause.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TypeVar

from qwen3_mlx.checkpoint.tensor_info import TensorInfo
from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.errors import CheckpointError
from qwen3_mlx.hub import kinds

T = TypeVar("T")
Tensors = Mapping[str, TensorInfo]

# Tensors that some exporters write and the network doesn't use.
_UNUSED = re.compile(r".*\.rotary_emb\.inv_freq")
_FUSED = re.compile(r"(.*\.mlp\.experts)\.gate_up_proj(?:\.weight)?")
_STACKED = re.compile(r"(.*\.mlp)\.experts\.(gate_proj|up_proj|down_proj)(?:\.weight)?")
_WITHOUT_PREFIX = ("layers.", "embed_tokens.", "norm.")


def wrapper_prefix(names: Iterable[str]) -> str:
    """The common prefix of all names that isn't part of the network, such as ``_orig_mod.``.

    Trainers add it: PEFT ``base_model.model.``, torch.compile ``_orig_mod.``, data parallelism
    ``module.``. Empty if any tensor lacks it.
    """
    names = list(names)
    embedding = next((name for name in names if "embed_tokens." in name), "")
    parts = embedding.partition("embed_tokens.")[0].split(".")[:-1]
    if parts[-1:] == ["model"]:
        parts = parts[:-1]
    prefix = "".join(f"{part}." for part in parts)
    return prefix if all(name.startswith(prefix) for name in names) else ""


def named_tensors(tensors: Tensors) -> dict[str, TensorInfo]:
    """The tensors by the names of Qwen's releases; their `name` stays the stored one.

    Removes a common prefix, adds a missing ``model.``, and splits the experts that transformers 5
    stores in one array (``experts.gate_up_proj [E, 2 I, H]``).
    """
    prefix = wrapper_prefix(tensors)
    bare = {name.removeprefix(prefix): info for name, info in tensors.items()}
    if not any(name.startswith("model.") for name in bare):
        bare = {
            f"model.{name}" if name.startswith(_WITHOUT_PREFIX) else name: info
            for name, info in bare.items()
        }
    found: dict[str, TensorInfo] = {}
    for name, info in bare.items():
        found |= _experts(name, info)
    return found


def _experts(name: str, info: TensorInfo) -> dict[str, TensorInfo]:
    if len(info.shape) == 3 and (match := _STACKED.fullmatch(name)):
        return {f"{match[1]}.switch_mlp.{match[2]}.weight": info}
    match = _FUSED.fullmatch(name)
    if match is None or len(info.shape) != 3 or info.shape[1] % 2 or not info.nbytes:
        return {name: info}
    experts, both, columns = info.shape
    size = info.nbytes // experts // 2
    found = {}
    for half in range(2 * experts):  # gate and up of expert 0, of expert 1, and so on
        part = replace(
            info,
            shape=(both // 2, columns),
            nbytes=size,
            offset=info.offset + half * size,
            part_of_tensor=True,
        )
        found[f"{match[1]}.{half // 2}.{('gate_proj', 'up_proj')[half % 2]}.weight"] = part
    return found


def find_parameter(find: Callable[[str], T | None], path: str, experts: int) -> tuple[T, ...]:
    """What `find` returns for the module at `path`: one result, or one per expert.

    Empty if there is none; shorter than `experts` if some are missing.
    """
    if (whole := find(path)) is not None:
        return (whole,)
    block, stacked, projection = path.partition(".switch_mlp.")
    if not stacked:
        return ()
    singles = (find(f"{block}.experts.{n}.{projection}") for n in range(experts))
    return tuple(single for single in singles if single is not None)


def is_body(names: Iterable[str]) -> bool:
    """Whether the names are those of a body without a head, as an embedder stores them."""
    return not any("model." in name or "lm_head." in name for name in names)


def with_head_or_without(config: Qwen3Config, tensors: Tensors, directory: Path) -> Qwen3Config:
    """`config`, without a head if an embedder's checkpoint has none (Qwen3-Embedding-8B).

    It is an embedder's by its files or name, or if its tensors are those of a body. In other
    checkpoints a missing head remains an error.
    """
    if config.tie_word_embeddings or any(name.startswith("lm_head.") for name in tensors):
        return config
    embedder = (
        is_body(info.name for info in tensors.values())
        or kinds.of_directory(directory) == "embedder"
    )
    return replace(config, head=False) if embedder else config


def is_unused(name: str, config: Qwen3Config) -> bool:
    """Whether the network ignores the tensor: old RoPE tables, the head of a tied model."""
    tied = config.tie_word_embeddings and name.startswith("lm_head.")
    return tied or _UNUSED.fullmatch(name) is not None


def difference_error(
    missing: Sequence[str], faults: Sequence[str], surplus: Sequence[str], packing: str = ""
) -> CheckpointError:
    """One error for all differences, listing the first five.

    missing, surplus: texts that begin with a tensor's name. faults: tensors of another shape or
    dtype. packing: the other tool's packing in config.json, if there is one.
    """
    problems = [
        *(f"missing {name}" for name in missing),
        *faults,
        *(f"surplus {name}" for name in surplus),
    ]
    listed = "\n  ".join(problems[:5])
    more = f"\n  … and {len(problems) - 5} more" if len(problems) > 5 else ""
    count = f"{len(problems)} tensor{'s differ' if len(problems) > 1 else ' differs'}"
    return CheckpointError(
        f"the weights are not those of the config: {count}\n  {listed}{more}",
        hint=_packing_hint(surplus, packing) or _hint(missing, faults, surplus),
    )


_PACKED = re.compile(
    r"\.(qweight|qzeros|g_idx|weight_scale_inv|weight_packed|absmax|SCB|weight_scale|quant_map)\b"
    r"|_proj_scale(_inv)?$"
)
_PACKED_TOGETHER = re.compile(
    r"\.experts\.(gate_up|gate|up|down)_proj(\.weight)?[._]"
    r"(qweight|qzeros|scales|g_idx|weight_packed|absmax|quant_map|weight_scale)"
)


def _packing_hint(surplus: Sequence[str], packing: str) -> str:
    """A hint for surplus tensors of a packing, "" if they don't look packed."""
    if packing and any(_PACKED_TOGETHER.search(name) for name in surplus):
        return (
            "all experts of a layer are packed in one array, which convert reads of fp8 and of"
            f" bitsandbytes' 4 bits, not so of {packing}: take a release with single experts, or"
            " the unquantized one"
        )
    if not packing or not any(_PACKED.search(name) for name in surplus):
        return ""
    return (
        f"config.json says {packing}, and these tensors are of another packing: take config.json"
        " from where the model came from"
    )


# Patterns of surplus tensors and their causes; the first pattern that any name matches counts.
_CAUSES = (
    (
        _PACKED.pattern,
        "another tool packed these weights, and config.json lacks the quantization_config that"
        " says how: take config.json from where the model came from",
    ),
    (
        r"\.(scales|biases)$",
        "MLX packed these weights, and config.json's quantization does not say how: take"
        " config.json from where the model came from",
    ),
    (
        r"lora_[aAbB]|lora_embedding|lora_magnitude",
        "a LoRA adapter lies among the weights: merge it into the model first",
    ),
    (
        r"^(\w+\.)*(score|classifier|v_head|value_head|reward_head|regression_layer)\.",
        "this model ends in a head that scores or classifies (a reranker, a reward model): it"
        " can't write text",
    ),
    (
        r"visual\.|vision_",
        "the model sees images too (Qwen3-VL): only its text part would run here",
    ),
    (
        r"\.[qkv]_proj\.bias$",
        "Qwen3 has no biases in its attention; Qwen2 has: is config.json this model's own?",
    ),
    (
        r"\.([kvq]|input|output|kv|prob)_scale$",
        "FP8 scales, but config.json lacks the quantization_config that says how: take config.json"
        " from where the model came from",
    ),
)


def _hint(missing: Sequence[str], faults: Sequence[str], surplus: Sequence[str]) -> str:
    for pattern, hint in _CAUSES:
        if any(re.search(pattern, name) for name in surplus):
            return hint
    if not surplus and not faults and all(name.startswith("lm_head") for name in missing):
        return (
            "the model has no output head: an embedding model (Qwen3-Embedding), or config.json"
            " should say tie_word_embeddings: true"
        )
    if faults and not missing and not surplus:
        if all(" has dtype " in fault for fault in faults):
            return "another tool packed or saved them: save the model in bfloat16, or fetch it"
        return "config.json describes a network of another size: is it this model's own?"
    if missing and not faults and not surplus:
        return "a shard is missing or was not fetched whole: fetch the model again"
    return "the directory mixes files of different models, or a shard is missing"


def by_layer(parameters: Iterable[str]) -> Iterator[list[str]]:
    """Parameter names grouped by layer, with groups for embedding, norm and head."""

    def layer(name: str) -> tuple[int, str]:
        match = re.match(r"model\.layers\.(\d+)\.", name)
        return (int(match[1]), "") if match else (-1, name.rpartition(".")[0])

    for _, names in groupby(sorted(parameters, key=layer), key=layer):
        yield list(names)
