"""Folders whose weights are packed, dense models and mixtures, by the tool that packs them so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import mlx.core as mx
import numpy as np

from tests.corpus.bases import CONFIGS, CONVERTS, Folder, Model, Tensors, Values
from tests.quantize import foreign
from tests.quantize import packed as bits
from tests.quantize.build import Array, Bits16, bf16, from_bf16


def ct(kind: str, width: int, **others: Any) -> Values:
    given = {"type": kind, "num_bits": width, "symmetric": True, "strategy": "group"} | others
    groups = {"group_0": {"targets": ["Linear"], "weights": given}}
    return {"quant_method": "compressed-tensors", "config_groups": groups, "ignore": ["lm_head"]}


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 64, "desc_act": False, "sym": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True, "version": "gemm"}
BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
BNB8 = {"quant_method": "bitsandbytes", "load_in_8bit": True}
FP8 = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}
ROUND = {"quant_method": "auto-round", "bits": 4, "group_size": 64, "sym": True}
Pack = Callable[..., Any]
READ: dict[str, tuple[Values, Pack, str]] = {
    "Qwen's FP8 releases": (FP8, foreign.fp8, "_proj"),
    "vLLM 0.9 FP8, a tensor": ({"quant_method": "fp8"}, partial(bits.fp8, kind="tensor"), "_proj"),
    "fbgemm, a row": ({"quant_method": "fbgemm_fp8"}, partial(bits.fp8, kind="row"), "_proj"),
    "AutoAWQ 0.2.9": (AWQ, foreign.awq, "_proj"),
    "AutoAWQ 0.2.9 gemv": (AWQ | {"version": "gemv"}, bits.awq_gemv, "_proj"),
    "AutoGPTQ 0.7": (GPTQ, foreign.gptq, "_proj"),
    "AutoGPTQ 0.7 desc_act": (GPTQ, partial(foreign.gptq, act_order=True), "_proj"),
    "GPTQModel 4.0 v2": (
        GPTQ | {"checkpoint_format": "gptq_v2"},
        partial(foreign.gptq, version=2),
        "_proj",
    ),
    "GPTQModel 4.0, 8 bits": (GPTQ | {"bits": 8}, partial(foreign.gptq, bits=8), "_proj"),
    "GPTQModel 4.0, 3 bits": (GPTQ | {"bits": 3}, bits.gptq3, "_proj"),
    "GPTQModel 4.0, dynamic": (
        GPTQ | {"dynamic": {"+:.*": {"bits": 8}}},
        bits.gptq_mixed(),
        "_proj",
    ),
    "GPTQModel 4.0, -: attention": (
        GPTQ | {"dynamic": {"-:.*self_attn.*": {}}},
        foreign.gptq,
        "(gate|up|down)_proj",
    ),
    "AutoRound 0.5": (
        ROUND | {"packing_format": "auto_round:auto_gptq"},
        foreign.gptq,
        "_proj",
    ),
    "AutoRound 0.5, its own": (ROUND, bits.gptq_symmetric, "_proj"),
    "AutoRound 0.5 as AWQ": (
        ROUND | {"packing_format": "auto_round:auto_awq"},
        foreign.awq,
        "_proj",
    ),
    "llm-compressor 0.5 W4A16": (
        ct("int", 4, group_size=64) | {"format": "pack-quantized"},
        bits.words,
        "_proj",
    ),
    "llm-compressor 0.5 W4A16_ASYM": (ct("int", 4), partial(bits.words, zeros=True), "_proj"),
    "llm-compressor 0.5 W8A16": (ct("int", 8), partial(bits.words, bits=8), "_proj"),
    "llm-compressor 0.5 W8A8": (ct("int", 8, strategy="channel"), bits.int8, "_proj"),
    "llm-compressor 0.6 FP8": (
        ct("float", 8, strategy="channel"),
        partial(bits.fp8, kind="row"),
        "_proj",
    ),
    "llm-compressor 0.7 NVFP4": (ct("float", 4, group_size=16), bits.nvfp4, "_proj"),
    "bitsandbytes 0.45 nf4": (BNB, bits.nf4, r"_proj|mlp\.gate"),
    "bitsandbytes 0.45 nf4 double": (BNB, partial(bits.nf4, double=True), r"_proj|mlp\.gate"),
    "bitsandbytes 0.45 int8": (BNB8, partial(bits.int8, name="SCB"), r"_proj|mlp\.gate"),
    "Unsloth 2025.5 dynamic 4bit": (BNB, bits.nf4, r"(gate|up|o)_proj"),
}


@cache
def made(tool: str, base: str) -> tuple[Tensors, dict[str, Array]]:
    """The tensors, and the floats they stand for."""
    _, pack, packs = READ[tool]
    return foreign.model(CONFIGS[base], pack, packs=packs)


def foreign_change(tool: str, base: str) -> Callable[[Model], None]:
    def change(model: Model) -> None:
        model.config["quantization_config"] = READ[tool][0]
        model.tensors = dict(made(tool, base)[0])

    return change


def mlx_packed(base: str, mode: str, width: int, group: int, keep: str = "norm") -> Any:
    """As mlx-lm packs: every matrix but those of which the name holds `keep`."""

    def change(model: Model) -> None:
        model.tensors = mlx_tensors(base, mode, width, group, keep)
        block = {"group_size": group, "bits": width} | ({} if mode == "affine" else {"mode": mode})
        exceptions = {
            path.removesuffix(".weight"): False
            for path in model.tensors
            if keep != "norm" and keep in path
        }
        model.config["quantization"] = block | exceptions
        model.config["quantization_config"] = block | exceptions

    return change


@cache
def mlx_tensors(base: str, mode: str, width: int, group: int, keep: str) -> Tensors:
    from tests.corpus.folders import stacked

    model = Model(base)
    if base == "moe":
        stacked("{}.switch_mlp.{}.weight")(model)
    found: Tensors = {}
    for name, stored in model.tensors.items():
        assert isinstance(stored, Bits16)
        if keep in name or stored.bits.ndim < 2:
            found[name] = stored
            continue
        arrays = mx.quantize(mx.array(from_bf16(stored)), group, width, mode=mode)
        path = name.removesuffix(".weight")
        for kind, array in zip(("weight", "scales", "biases"), arrays, strict=False):
            floats = array.dtype == mx.float32
            plain = np.array(array)
            found[f"{path}.{kind}"] = bf16(plain) if floats else plain
    return found


def mlx_folders() -> Iterator[Folder]:
    """MLX's own packings, which load as they are."""
    for base in ("dense", "untied", "moe"):
        for mode, width, group, tool in (
            ("affine", 4, 64, "mlx-lm 0.24"),
            ("affine", 8, 64, "mlx-lm 0.24 --q-bits 8"),
            ("affine", 6, 32, "mlx-lm 0.28 --q-bits 6"),
            ("affine", 3, 64, "mlx-lm 0.24 --q-bits 3"),
            ("mxfp4", 4, 32, "mlx-lm 0.29 --q-mode mxfp4"),
        ):
            change = mlx_packed(base, mode, width, group)
            title = f"{tool}, {base}"
            yield Folder(title, tool, base, change, same=False)
        kept = mlx_packed(base, "affine", 4, 64, "o_proj")
        yield Folder(f"o_proj in floats, {base}", "mlx-lm predicate", base, kept, same=False)


def packed() -> Iterator[Folder]:
    """All of them."""
    for base in ("dense", "moe"):
        for tool in READ:
            yield Folder(
                f"{tool}, {base}", tool, base, foreign_change(tool, base), outcome=CONVERTS
            )
    yield from mlx_folders()
