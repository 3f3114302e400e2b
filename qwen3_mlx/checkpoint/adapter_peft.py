"""PEFT's LoRA adapters: ``lora_A``, ``lora_B`` by module path, and adapter_config.json.

The scale is ``lora_alpha / r``, or ``lora_alpha / √r`` with ``use_rslora``; ``rank_pattern`` and
``alpha_pattern`` override both for some modules (peft, tuners/lora). Experts are single modules, as
in transformers 4, or ``target_parameters`` of the stacked experts of transformers 5.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from qwen3_mlx.checkpoint.adapter_parts import (
    Pair,
    Shape,
    Update,
    both_halves,
    check_pair,
    no_such_modules,
    positive,
    refusal,
    targets,
    unsupported,
)
from qwen3_mlx.checkpoint.tensor_info import TensorInfo
from qwen3_mlx.config import Qwen3Config

_TENSOR = re.compile(r"(?:base_model\.model\.)?(.+)\.(lora_A|lora_B)(?:\.default)?\.weight")
_COPY = re.compile(
    r"(?:base_model\.model\.)?(model\.embed_tokens|lm_head)(?:\.base_layer)?\.weight"
)
_EXPERT = re.compile(r"(.*\.mlp)\.experts\.(0|[1-9]\d*)\.(gate_proj|up_proj|down_proj)")
_STACK = re.compile(r"(.*\.mlp)\.experts(?:\.base_layer)*")
_DEFAULTS: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "use_dora": (False, None),
    "fan_in_fan_out": (False, None),
    "lora_bias": (False, None),
    "use_qalora": (False, None),
    "use_bdlora": (False, None),
    "modules_to_save": ([], None),
    "trainable_token_indices": ([], {}, None),
    "layer_replication": ([], None),
    "alora_invocation_tokens": ([], None),
    "arrow_config": (None,),
    "velora_config": (None,),
    "monteclora_config": (None,),
    "kasa_config": (None,),
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal"),
}
"""Settings and their allowed values: with others the update isn't ``B A``. Other initializations
(PiSSA, OLoRA, CorDA, LoftQ) change the base's own weights."""


def read(
    values: Mapping[str, Any], tensors: Mapping[str, TensorInfo], config: Qwen3Config
) -> dict[str, Update]:
    """The adapter's updates by module path. Raises `ConfigError` or `CheckpointError`."""
    _check_config(values)
    found: dict[str, dict[str, TensorInfo]] = {}
    for name, info in tensors.items():
        if _COPY.fullmatch(name):
            continue
        if (match := _TENSOR.fullmatch(name)) is None:
            hint = "it holds more than LoRA: merge it into the model with PEFT's merge_and_unload"
            raise refusal(
                "the adapter has a tensor that is none of LoRA's", name, "lora_A, lora_B", hint
            )
        path = f"model.{match[1]}" if match[1].startswith("layers.") else match[1]
        found.setdefault(path, {})[match[2]] = info
    both_halves(found, ("lora_A", "lora_B"))
    updates = _updates(values, found, config)
    _check_targets(values, found, config)
    return updates


def copies(tensors: Mapping[str, TensorInfo], config: Qwen3Config) -> dict[str, TensorInfo]:
    """The copies of embedding and head that PEFT has stored, by module path.

    PEFT stores them if they are adapted or resized. Raises `CheckpointError` if resized.
    """
    found = {}
    for name, info in tensors.items():
        if match := _COPY.fullmatch(name):
            shape = (config.vocab_size, config.hidden_size)
            if info.shape != shape:
                hint = "its vocabulary was resized: merge it with PEFT's merge_and_unload"
                raise refusal(f"adapter: {name}", list(info.shape), list(shape), hint)
            found[match[1]] = info
    return found


def _check_config(values: Mapping[str, Any]) -> None:
    if values["peft_type"] != "LORA":
        raise unsupported("peft_type", values["peft_type"], "'LORA'")
    for key, allowed in _DEFAULTS.items():
        if values.get(key, allowed[0]) not in allowed:
            hint = "merge it into the model with PEFT's merge_and_unload, then load that"
            raise unsupported(key, values[key], repr(allowed[0]), hint)
    for key in ("rank_pattern", "alpha_pattern"):
        if not isinstance(values.get(key) or {}, dict):
            raise unsupported(key, values[key], "numbers by module name")


def _updates(
    values: Mapping[str, Any],
    found: Mapping[str, Mapping[str, TensorInfo]],
    config: Qwen3Config,
) -> dict[str, Update]:
    shapes = targets(config)
    pairs: dict[str, dict[int | None, Pair]] = {}
    unknown = []
    for path, halves in found.items():
        if stack := _STACK.fullmatch(path):
            _add_stacked(values, pairs, stack[1], halves, shapes)
            continue
        expert = _EXPERT.fullmatch(path)
        place = f"{expert[1]}.switch_mlp.{expert[3]}" if expert else path
        number = int(expert[2]) if expert else None
        shape = shapes.get(place)
        if shape is None or len(shape) != 2 + (number is not None):
            unknown.append(path)
            continue
        if number is not None and number >= shape[0]:
            unknown.append(path)
            continue
        rank, scale = _rank_and_scale(values, path)
        pair = Pair(halves["lora_A"], halves["lora_B"], scale, "rows")
        check_pair(pair, (rank, shape[-1]), (shape[-2], rank))
        pairs.setdefault(place, {})[number] = pair
    if unknown:
        raise no_such_modules(unknown, shapes)
    return {path: Update(path, shapes[path], by_number) for path, by_number in pairs.items()}


def _add_stacked(
    values: Mapping[str, Any],
    pairs: dict[str, dict[int | None, Pair]],
    block: str,
    halves: Mapping[str, TensorInfo],
    shapes: Mapping[str, Shape],
) -> None:
    """Add the pair of a stacked parameter: down's, or the one of gate and up.

    Its name doesn't show which, but the rows of B do.
    """
    gate, down = (shapes.get(f"{block}.switch_mlp.{n}_proj") for n in ("gate", "down"))
    if gate is None or down is None:
        raise no_such_modules([f"{block}.experts"], shapes)
    experts, inner, width = gate
    a, b = halves["lora_A"], halves["lora_B"]
    is_gate_up = b.shape[:1] == (2 * inner,) and a.shape[1:] == (width,)
    parameter = "gate_up_proj" if is_gate_up else "down_proj"
    rank, scale = _rank_and_scale(values, f"{block}.experts.{parameter}")
    sizes = (2 * inner, width) if is_gate_up else (width, inner)
    pair = Pair(a, b, scale, "parameter", experts)
    check_pair(pair, (experts * rank, sizes[1]), (sizes[0], experts * rank))
    if not is_gate_up:
        pairs[f"{block}.switch_mlp.down_proj"] = {None: pair}
        return
    for place, first in (("gate_proj", 0), ("up_proj", inner)):
        rows = (first, first + inner)
        half = Pair(a, b, scale, "parameter", experts, rows)
        pairs[f"{block}.switch_mlp.{place}"] = {None: half}


def _rank_and_scale(values: Mapping[str, Any], path: str) -> tuple[int, float]:
    """The module's rank, and the scale of its update."""
    own = {
        "r": _of_pattern(values.get("rank_pattern"), path, values.get("r")),
        "lora_alpha": _of_pattern(values.get("alpha_pattern"), path, values.get("lora_alpha")),
    }
    rank = int(positive(own, "r", whole=True))
    alpha = positive(own, "lora_alpha", whole=False)
    return rank, alpha / (math.sqrt(rank) if values.get("use_rslora") else rank)


def _of_pattern(pattern: Any, path: str, default: Any) -> Any:
    """The value of the first pattern that matches the end of `path`, by PEFT's rule."""
    for key, value in (pattern or {}).items():
        if _matches(rf"(.*\.)?({key})", path):
            return value
    return default


def _matches(pattern: str, text: str) -> bool:
    try:
        return re.fullmatch(pattern, text) is not None
    except (re.error, RecursionError) as error:
        raise unsupported("a pattern", pattern, f"a regular expression ({error})") from None


def _check_targets(
    values: Mapping[str, Any], found: Mapping[str, Any], config: Qwen3Config
) -> None:
    """Raise unless the tensors agree with ``target_modules`` and all its names exist."""
    target_modules = values.get("target_modules")
    stacks = {path for path in found if _STACK.fullmatch(path)}
    modules = [path for path in found if path not in stacks]
    if stacks and not values.get("target_parameters"):
        raise refusal(
            "the adapter's tensors are not those of its config", min(stacks), target_modules
        )
    if isinstance(target_modules, str):
        if target_modules.lower() == "all-linear":
            return
        if odd := [p for p in modules if not any(_matches(target_modules, n) for n in _names(p))]:
            raise refusal(
                "the adapter's tensors are not those of its config", odd[0], target_modules
            )
        return
    names = target_modules or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise unsupported(
            "target_modules", target_modules, "a list of names, or a regular expression"
        )
    if odd := [p for p in modules if not any(f".{p}".endswith(f".{n}") for n in names)]:
        raise refusal("the adapter's tensors are not those of its config", odd[0], names)
    known = {path.replace(".switch_mlp.", ".experts.0.") for path in targets(config)}
    strangers = [n for n in names if not any(f".{p}".endswith(f".{n}") for p in {*known, *found})]
    if strangers:
        raise no_such_modules(strangers, known)
    _check_complete(values, found, names, known)


def _check_complete(
    values: Mapping[str, Any], found: Mapping[str, Any], names: list[str], known: set[str]
) -> None:
    """Raise if a target module has no tensors, except experts, which transformers 5 stacks."""
    if any(
        values.get(key) not in (None, [], "") for key in ("exclude_modules", "layers_to_transform")
    ):
        return
    expected = (path for path in known if any(f".{path}".endswith(f".{name}") for name in names))
    missing = sorted(path for path in expected if path not in found and ".experts." not in path)
    # In transformers 5 the router isn't a Linear, so PEFT skips it.
    missing = [path for path in missing if not path.endswith(".mlp.gate")]
    if missing:
        raise refusal(
            "the adapter lacks tensors that its config names", missing[0], "lora_A, lora_B"
        )


def _names(path: str) -> tuple[str, str]:
    """The module's path in a causal model, and in the body of an embedder."""
    return path, path.removeprefix("model.")
