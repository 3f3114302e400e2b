"""Reads ``quantization_config``: how another tool has packed the weights.

Only this module decides what `convert` can read, so every hint to convert is valid.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from qwen3_mlx.errors import ConfigError, brief

_ELSEWHERE = "take the model's unquantized release, or one that MLX packed such as the alias 8b"


@dataclass(frozen=True, slots=True)
class Packing:
    """A packing that `convert` can read.

    bits: of the packed weights; None if it varies by tensor. settings: the block itself.
    """

    method: str
    """The method: fp8, awq, gptq, compressed-tensors or bitsandbytes."""
    bits: int | None
    settings: Mapping[str, Any]
    zero_offset: int | None = 0
    """The offset to add to GPTQ's stored zero points: 1 in version 1 of the format. None means
    that the zero points show it, since all are the middle of the range."""
    other_bits: frozenset[int] = field(default_factory=frozenset)
    """Other bits of single modules (GPTQModel's ``dynamic``)."""


def read(block: Mapping[str, Any]) -> Packing | None:
    """The packing that ``quantization_config`` describes; None for MLX's own.

    Raises `ConfigError` for a packing that `convert` can't read.
    """
    method = block.get("quant_method")
    if method == "mlx" or (method is None and "bits" in block):
        return None
    reader = _READERS.get(str(method).removeprefix("intel/"))
    if reader is None:
        raise ConfigError(
            "config.json: quantization_config",
            got=brief(method if method is not None else block),
            expected=f"{', '.join(_READERS)}, or MLX's own",
            hint=_ELSEWHERE,
        )
    _check_transforms(str(method), block)
    return reader(block)


_TRANSFORMS = ("transform_config", "rotation", "rotation_config", "hadamard_config")


def _check_transforms(method: str, block: Mapping[str, Any]) -> None:
    """Raise `ConfigError` if the network must rotate activations, as in QuIP and SpinQuant.

    Rotations of weights alone (llm-compressor's `weight_input`, `weight_output`) are already
    applied.
    """
    for key in _TRANSFORMS:
        if (value := block.get(key)) and not _only_of_weights(value):
            expected = "no rotation of what the network computes: its weights alone don't hold it"
            raise _refused(method, f"{key} {brief(value)}", expected)


def _only_of_weights(value: Any) -> bool:
    """Whether llm-compressor's ``transform_config`` transforms only weights."""
    groups: Any = (value.get("config_groups") or {}) if _is_map(value) else None
    if not _is_map(groups):
        return False
    places = (
        use.get("location") if _is_map(use) else None
        for group in groups.values()
        for use in _uses(group)
    )
    return all(isinstance(place, str) and place.startswith("weight_") for place in places)


def _uses(group: Any) -> list[Any]:
    uses = group.get("apply") if _is_map(group) else None
    return uses if isinstance(uses, list) else [None]


def _refused(method: str, got: str, expected: str) -> ConfigError:
    what = f"config.json: quantization_config ({method})"
    return ConfigError(what, got=got, expected=expected, hint=_ELSEWHERE)


def _fp8(block: Mapping[str, Any]) -> Packing:
    fmt, size = block.get("fmt", "e4m3"), block.get("weight_block_size")
    sound = size is None or (
        isinstance(size, list) and len(size) == 2 and all(type(n) is int and n > 0 for n in size)
    )
    if fmt not in ("e4m3", "float8_e4m3fn", "float8_e4m3", None) or not sound:
        raise _refused(
            "fp8",
            f"fmt {fmt!r}, weight_block_size {size!r}",
            "fmt 'e4m3' and weight_block_size [rows, columns] or none",
        )
    return Packing("fp8", 8, block)


def _awq(block: Mapping[str, Any]) -> Packing:
    bits = block.get("bits", block.get("w_bit"))
    version = str(block.get("version") or "gemm").lower()
    zero_point = block.get("zero_point", True)
    if bits != 4 or version not in ("gemm", "gemv") or zero_point is not True:
        raise _refused(
            "awq",
            f"bits {bits!r}, version {version!r}, zero_point {zero_point!r}",
            "bits 4, version 'gemm' or 'gemv', zero_point true",
        )
    return Packing("awq", 4, {**block, "version": version})


def _gptq(block: Mapping[str, Any]) -> Packing:
    bits = block.get("bits")
    kind = block.get("checkpoint_format") or block.get("format") or "gptq"
    others = _other_bits("gptq", block.get("dynamic"))
    word = block.get("pack_dtype") or "int32"
    wrong = [n for n in (bits, *others) if type(n) is not int or n not in (2, 3, 4, 8)]
    if wrong or kind not in ("gptq", "gptq_v2") or word != "int32":
        raise _refused(
            "gptq",
            f"bits {wrong[0] if wrong else bits!r}, checkpoint_format {kind!r}, words of {word}",
            "bits 2, 3, 4 or 8, checkpoint_format 'gptq' or 'gptq_v2', words of int32",
        )
    return Packing("gptq", bits, block, int(kind == "gptq"), frozenset(others))


def _other_bits(method: str, rules: Any) -> set[int]:
    """The bits in rules by module name; a pattern with ``-:`` leaves modules unquantized."""
    if not isinstance(rules or {}, Mapping):
        raise _refused(method, f"dynamic {brief(rules)}", "an object of rules by module")
    return {
        rule["bits"]
        for name, rule in (rules or {}).items()
        if isinstance(rule, Mapping) and type(rule.get("bits")) is int and not name.startswith("-:")
    }


def _auto_round(block: Mapping[str, Any]) -> Packing:
    """AutoRound packs as GPTQ version 1, as AWQ, or in its own format: GPTQ's but for zero points.

    Versions of AutoRound store these zero points unchanged or minus one, under the same name. With
    symmetric quantization (the default) their value shows which; otherwise it is refused.
    """
    kind = str(block.get("packing_format") or block.get("backend") or "auto_round")
    own, symmetric = not re.search("gptq|awq", kind), block.get("sym", True)
    numbers = block.get("data_type", "int") in ("int", None)
    if not numbers or not kind.startswith(("auto_", "gptq", "awq")) or (own and not symmetric):
        raise _refused(
            "auto-round",
            f"packing_format {kind!r}, sym {symmetric!r},"
            f" data_type {block.get('data_type', 'int')!r}",
            "data_type 'int', and packing_format 'auto_round:auto_gptq' or 'auto_round:auto_awq',"
            " or sym true",
        )
    if "awq" in kind:
        return _awq({"bits": block.get("bits"), "version": "gemm"})
    rules = _packed(block.get("extra_config"))
    found = _gptq({"bits": block.get("bits"), "checkpoint_format": "gptq", "dynamic": rules})
    if own and _is_map(rules) and any(rule.get("sym") is False for rule in rules.values()):
        raise _refused("auto-round", "some modules with sym false", "sym true for all")
    return replace(found, zero_offset=None) if own else found


def _packed(rules: Any) -> Any:
    """AutoRound's rules by module, without those of unquantized modules (16 bits)."""
    if not isinstance(rules, Mapping):
        return rules
    return {n: r for n, r in rules.items() if isinstance(r, Mapping) and r.get("bits") != 16}


_CT_FORMATS = (
    *("pack-quantized", "int-quantized", "float-quantized", "naive-quantized"),
    *("nvfp4-pack-quantized", "mixed-precision", "dense"),
)


def _compressed_tensors(block: Mapping[str, Any]) -> Packing:
    method, groups = "compressed-tensors", block.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        raise _refused(method, f"config_groups {brief(groups)}", "groups of modules")
    sparsity = block.get("sparsity_config") or {}
    sparse = isinstance(sparsity, Mapping) and sparsity.get("format") not in (None, "dense")
    if block.get("format") not in (None, *_CT_FORMATS) or sparse:
        found = f"format {block.get('format')!r}" + (", and a sparsity format" if sparse else "")
        raise _refused(method, found, f"format {', '.join(_CT_FORMATS)}, without sparsity")
    bits = set()
    for name, group in groups.items():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        if weights is None:
            continue
        kind = (weights.get("type", "int"), weights.get("num_bits")) if _is_map(weights) else None
        if kind not in (("int", 2), ("int", 4), ("int", 8), ("float", 8), ("float", 4)):
            raise _refused(
                method,
                f"{name}: {brief(weights)}",
                "weights of 2, 4 or 8 bits int, 8 bits float, or 4 bits float (NVFP4)",
            )
        if kind == ("float", 4) and weights.get("group_size") != 16:
            raise _refused(method, f"{name}: 4-bit floats, not NVFP4", "groups of 16")
        bits.add(weights["num_bits"])
    return Packing(method, None, block, other_bits=frozenset(bits))


def _is_map(value: Any) -> bool:
    return isinstance(value, Mapping)


def _bitsandbytes(block: Mapping[str, Any]) -> Packing:
    four = block.get("load_in_4bit", block.get("_load_in_4bit", False))
    eight = block.get("load_in_8bit", block.get("_load_in_8bit", False))
    if four is eight or (four and block.get("bnb_4bit_quant_type", "fp4") not in ("nf4", "fp4")):
        raise _refused(
            "bitsandbytes",
            f"load_in_4bit {four!r}, load_in_8bit {eight!r},"
            f" bnb_4bit_quant_type {block.get('bnb_4bit_quant_type')!r}",
            "4 bits (nf4 or fp4) or 8",
        )
    return Packing("bitsandbytes", 4 if four else 8, block)


_READERS: dict[str, Callable[[Mapping[str, Any]], Packing]] = {
    "fp8": _fp8,
    "fbgemm_fp8": _fp8,
    "awq": _awq,
    "gptq": _gptq,
    "auto-round": _auto_round,
    "compressed-tensors": _compressed_tensors,
    "bitsandbytes": _bitsandbytes,
}
