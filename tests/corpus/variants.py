"""A corpus of config.json as people's tools write it, each with the tool and version that does.

Generated, not collected: the forms follow the tools' sources and the public reports about them. No
file here was downloaded. `variants()` gives them all; each loads, is one that `convert` reads, or
is refused for a stated reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from qwen3_mlx.hub.releases import RELEASES, SIZES
from tests.configs import YARN, Values, new_spelling

LOADS, CONVERTS = "loads", "converts"


class Variant(NamedTuple):
    """One config.json: who writes it, and what becomes of it (`LOADS`, `CONVERTS`, or a reason)."""

    name: str
    tool: str
    values: Values
    outcome: str = LOADS


ORIGINAL: Values = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_window_layers": 28,
    "rope_scaling": None,
    "sliding_window": None,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0",
    "use_cache": True,
    "use_sliding_window": False,
}
MOE_ONLY: Values = {"output_router_logits": False, "router_aux_loss_coef": 0.001}
Q4: Values = {"group_size": 64, "bits": 4}


def original(size: str, **changes: Any) -> Values:
    """What Qwen publishes for a size, as transformers 4.51 wrote it."""
    values = SIZES[size].config() | ORIGINAL
    name = "Qwen3MoeForCausalLM" if "num_experts" in values else "Qwen3ForCausalLM"
    return values | {"architectures": [name]} | (MOE_ONLY if "Moe" in name else {}) | changes


def every_module(values: Values) -> Values:
    """mlx-lm 0.24 with a predicate: true, false or settings for every module."""
    listed: Values = {"model.embed_tokens": {"group_size": 64, "bits": 6}, "model.norm": False}
    for layer in range(values["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        listed |= {f"{at}.self_attn.{kind}_proj": True for kind in "qkvo"}
        listed |= {f"{at}.input_layernorm": False, f"{at}.mlp.down_proj": {"bits": 6}}
    return Q4 | listed


def releases() -> Iterator[Variant]:
    """The sixteen aliases in the forms that their repositories have had."""
    for release in RELEASES:
        shape = {
            "max_position_embeddings": release.max_position_embeddings,
            "rope_theta": release.rope_theta,
        }
        plain = original(release.size, **shape)
        both = {"quantization": Q4, "quantization_config": Q4}
        modes = Q4 | {"mode": "affine"}
        new = new_spelling(plain)
        yield Variant(f"{release.name}", "transformers 4.51", plain)
        yield Variant(f"{release.name}, new", "transformers 5.0", new)
        yield Variant(f"{release.name}-4bit", "mlx-lm 0.24", plain | both)
        yield Variant(f"{release.name}-4bit, mode", "mlx-lm 0.28", new | {"quantization": modes})
        listed = plain | {"quantization": every_module(plain)}
        yield Variant(f"{release.name}-4bit, listed", "mlx-lm 0.24 with --quant-predicate", listed)


def trainers() -> Iterator[Variant]:
    """What fine-tuning and merging tools leave in the file."""
    extras: dict[str, Values] = {
        "Unsloth 2025.5": {"unsloth_fixed": True, "pad_token_id": 151654},
        "Unsloth 2025.9": {"unsloth_version": "2025.9.1", "pad_token_id": 151669},
        "axolotl 0.9": {"use_cache": False, "_attn_implementation_autoset": True},
        "LlamaFactory 0.9.3": {"use_cache": False, "pad_token_id": 151643},
        "mergekit 0.1": {"_name_or_path": "merged", "torch_dtype": "float16"},
        "PEFT 0.15, merged": {"_name_or_path": "Qwen/Qwen3-8B", "dtype": "bfloat16"},
        "trl 0.19": {"pad_token_id": 151643, "use_cache": False, "auto_map": {}},
        "ms-swift 3.5": {"use_mrope": False, "tokenizer_class": "Qwen2TokenizerFast"},
        "verl 0.4": {"pretraining_tp": 1, "is_decoder": False},
        "transformers 4.51, every key": {"num_labels": 2, "id2label": {"0": "LABEL_0"}, "top_k": 50}
        | {"temperature": 1.0, "do_sample": False, "max_length": 20, "pruned_heads": {}},
        "Megatron bridge": {"qkv_bias": False, "mlp_bias": False, "qk_norm": True},
        "a converter of ours": {"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}},
    }
    for tool, more in extras.items():
        for size in ("0.6B", "30B-A3B"):
            yield Variant(f"{tool}, {size}", tool, original(size) | more)


def rope() -> Iterator[Variant]:
    """Positions, stretched or not."""
    good: dict[str, Values] = {
        "Qwen's guide": {"rope_scaling": YARN},
        "Qwen's guide, older key": {"rope_scaling": {**YARN, "type": "yarn"}},
        "DeepSeek-R1-0528-Qwen3-8B": {"rope_scaling": YARN | {"attn_factor": 0.8782488562869419}},
        "vLLM's keys": {"rope_scaling": YARN | {"extrapolation_factor": 1.0, "beta_fast": 32}},
        "transformers 5": {"rope_parameters": YARN | {"rope_theta": 1e6}, "rope_theta": 1e6},
        "both alike": {"rope_parameters": YARN | {"rope_theta": 1e6}, "rope_scaling": YARN},
        "partial of 1": {"partial_rotary_factor": 1.0},
        "mscale": {"rope_scaling": YARN | {"mscale": 1.0, "mscale_all_dim": 1.0}},
    }
    bad: dict[str, tuple[Values, str]] = {
        "no type": ({"rope_scaling": {"factor": 4.0}}, "rope_type"),
        "dynamic": ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "rope_type"),
        "llama3": ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope_type"),
        "partial": ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        "two factors": (
            {"rope_parameters": YARN | {"factor": 2.0}, "rope_scaling": YARN},
            "rope_parameters and rope_scaling",
        ),
        "mrope": ({"rope_scaling": {"mrope_section": [16, 24, 24]}}, "mrope_section"),
    }
    for size in ("8B", "30B-A3B"):
        for name, more in good.items():
            yield Variant(
                f"{name}, {size}", f"{name} (transformers 4.51 to 5)", original(size) | more
            )
        for name, (more, reason) in bad.items():
            yield Variant(f"{name}, {size}", "edited by hand", original(size) | more, reason)


def ct(kind: str, bits: int, **more: Any) -> Values:
    """llm-compressor's block."""
    weights = {"type": kind, "num_bits": bits, "symmetric": True, "strategy": "group", **more}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    return {"quant_method": "compressed-tensors", "config_groups": groups, "ignore": ["lm_head"]}


GPTQ: Values = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True}
AWQ: Values = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}
BNB: Values = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}


def transforms(*places: str) -> Values:
    """llm-compressor's rotations: of weights, and of what flows between them."""
    uses = [{"targets": ["Linear"], "location": place} for place in places]
    return {"transform_config": {"config_groups": {"v": {"type": "hadamard", "apply": uses}}}}


W4 = ct("int", 4, group_size=128) | {"format": "pack-quantized"}
BLOCK = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}


UNREAD: dict[str, tuple[Values, str]] = {
    "HQQ": ({"quant_method": "hqq", "quant_config": {}}, "'hqq'"),
    "torchao 0.11": ({"quant_method": "torchao"}, "'torchao'"),
    "ExLlamaV2": ({"quant_method": "exl2", "bits": 4.0}, "'exl2'"),
    "AQLM": ({"quant_method": "aqlm"}, "'aqlm'"),
    "Quark": ({"quant_method": "quark"}, "'quark'"),
    "AutoAWQ marlin": (AWQ | {"version": "marlin"}, "marlin"),
    "GPTQ of 5 bits": (GPTQ | {"bits": 5}, "bits 5"),
    "llm-compressor 2:4": (
        ct("int", 4) | {"sparsity_config": {"format": "sparse-24-bitmask"}},
        "sparsity",
    ),
    "llm-compressor MXFP4": (ct("float", 4, group_size=32), "NVFP4"),
    "llm-compressor 0.7 QuIP": (W4 | transforms("input", "weight_input"), "transform_config"),
    "SpinQuant R3": (W4 | transforms("weight_input", "q_attn"), "transform_config"),
    "transforms nobody knows": (W4 | {"transform_config": {"config_groups": 5}}, "transform"),
    "GPTQModel 2.0 rotation": (GPTQ | {"rotation": "hadamard"}, "rotation"),
    "NVIDIA ModelOpt": ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "'modelopt'"),
    "E5M2": ({"quant_method": "fp8", "fmt": "e5m2"}, "e5m2"),
    "AutoRound's own, asymmetric": (
        {"quant_method": "auto-round", "bits": 4, "sym": False},
        "auto_round",
    ),
}


def packings() -> Iterator[Variant]:
    """What other tools pack, read by `convert` or by nobody."""
    read: dict[str, Values] = {
        "Qwen's FP8 releases": BLOCK | {"fmt": "e4m3", "modules_to_not_convert": ["lm_head"]},
        "transformers 4.53 FineGrainedFP8": BLOCK | {"fmt": "float8_e4m3fn"},
        "vLLM 0.9 FP8 static": {"quant_method": "fp8", "activation_scheme": "static"},
        "fbgemm_fp8": {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0},
        "AutoAWQ 0.2.9": AWQ | {"version": "gemm", "modules_to_not_convert": None},
        "AutoAWQ 0.2.9 gemv": AWQ | {"version": "gemv"},
        "AutoGPTQ 0.7": GPTQ | {"sym": True, "model_file_base_name": "model"},
        "GPTQModel 2.2": GPTQ | {"checkpoint_format": "gptq", "pack_dtype": "int32"},
        "GPTQModel 4.0, v2": GPTQ | {"checkpoint_format": "gptq_v2"},
        "GPTQModel 4.0, dynamic": GPTQ | {"dynamic": {"+:.*o_proj": {"bits": 8}, "-:.*gate": {}}},
        "AutoRound 0.5": {"quant_method": "auto-round", "bits": 4, "sym": True}
        | {"packing_format": "auto_round:auto_gptq", "data_type": "int"},
        "AutoRound 0.4": {"quant_method": "intel/auto-round", "bits": 4}
        | {"backend": "auto_round:gptq:exllamav2"},
        "AutoRound 0.5.1, DeepSeek-R1-0528-Qwen3-8B": {"quant_method": "auto-round", "bits": 4}
        | {"autoround_version": "0.5.1", "data_type": "int", "group_size": 128, "sym": True},
        "AutoRound 0.3": {"quant_method": "intel/auto-round", "bits": 4, "sym": True}
        | {"backend": "auto_round:exllamav2"},
        "llm-compressor 0.5 W4A16": ct("int", 4, group_size=128) | {"format": "pack-quantized"},
        "llm-compressor 0.5 W8A16": ct("int", 8, group_size=128) | {"format": "pack-quantized"},
        "llm-compressor 0.5 W8A8": ct("int", 8, strategy="channel") | {"format": "int-quantized"},
        "llm-compressor 0.6 FP8_DYNAMIC": ct("float", 8, strategy="channel")
        | {"format": "float-quantized", "kv_cache_scheme": None},
        "llm-compressor 0.7 NVFP4": ct("float", 4, group_size=16)
        | {"format": "nvfp4-pack-quantized"},
        "llm-compressor 0.7 SpinQuant R1 R2": W4 | transforms("weight_input", "weight_output"),
        "llm-compressor 0.9, no transforms": W4 | {"transform_config": {}},
        "bitsandbytes 0.45 nf4": BNB | {"bnb_4bit_use_double_quant": True, "_load_in_4bit": True},
        "bitsandbytes 0.45 int8": {"quant_method": "bitsandbytes", "load_in_8bit": True},
        "Unsloth 2025.5 bnb-4bit": BNB | {"llm_int8_skip_modules": ["lm_head"]},
    }
    for size in ("4B", "30B-A3B"):
        for tool, block in read.items():
            values = original(size, quantization_config=block)
            yield Variant(f"{tool}, {size}", tool, values, CONVERTS)
        for tool, (block, reason) in UNREAD.items():
            values = original(size, quantization_config=block)
            yield Variant(f"{tool}, {size}", tool, values, reason)


def others() -> Iterator[Variant]:
    """Networks that are no Qwen3, and files that lost something."""
    refused: dict[str, tuple[Values, str]] = {
        "Qwen2.5": ({"model_type": "qwen2"}, "model_type"),
        "Qwen3-Next": ({"model_type": "qwen3_next"}, "model_type"),
        "Qwen3-VL": ({"model_type": "qwen3_vl"}, "model_type"),
        "biases": ({"attention_bias": True}, "attention_bias"),
        "a window": ({"use_sliding_window": True}, "use_sliding_window"),
        "mixed layers": ({"layer_types": ["sliding_attention"] * 36}, "layer_types"),
        "no width": ({"hidden_size": None}, "hidden_size"),
        "another activation": ({"hidden_act": "gelu"}, "hidden_act"),
        "a key nobody knows": ({"logit_scale": 0.5}, "logit_scale"),
    }
    for name, (more, reason) in refused.items():
        yield Variant(name, name, original("8B") | more, reason)
    for key in ("head_dim", "max_position_embeddings", "rms_norm_eps", "rope_theta"):
        values = original("8B")
        del values[key]
        yield Variant(f"no {key}", "transformers 5 leaves defaults out", values)


def variants() -> list[Variant]:
    """All of them."""
    return [*releases(), *trainers(), *rope(), *packings(), *others()]
