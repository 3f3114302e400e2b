"""What people's files say: forms that other tools write, and keys that would change the result."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.config.keys import FIXED, IGNORED
from qwen3_mlx.config.quantization import QuantSpec
from tests.configs import DENSE, MOE, QUANTIZED, YARN, Values, new_spelling, read, refused

Q0 = "model.layers.0.self_attn.q_proj"
DEEPSEEK = YARN | {"attn_factor": 0.8782488562869419}  # DeepSeek-R1-0528-Qwen3-8B


def spec(block: Values, path: str) -> QuantSpec | None:
    quantization = read(DENSE, quantization=block).quantization
    assert quantization is not None
    return quantization.spec(path)


def test_mlx_quantization_that_lists_every_module() -> None:
    """mlx-lm 0.24 wrote the predicate's answer for each: true, false, or settings."""
    block = QUANTIZED | {Q0: True, "model.norm": False, "lm_head": {"group_size": 32, "bits": 6}}
    assert spec(block, Q0) == spec(block, "model.layers.1.mlp.up_proj") == QuantSpec(4, 64)
    assert spec(block, "model.norm") is None
    assert spec(block, "lm_head") == QuantSpec(6, 32)


@pytest.mark.parametrize("own", [{"bits": 8}, {"bits": 8, "mode": None, "group_size": None}])
def test_an_exception_inherits_what_it_does_not_say(own: Values) -> None:
    assert spec({"group_size": 32, "bits": 4, Q0: own}, Q0) == QuantSpec(8, 32)


@pytest.mark.parametrize("more", [{"mode": None}, {"mode": "affine"}, {"quant_method": "mlx"}])
@pytest.mark.parametrize("key", ["quantization", "quantization_config"])
def test_settings_that_say_nothing_new(key: str, more: Values) -> None:
    assert read(DENSE, **{key: QUANTIZED | more}) == read(DENSE, quantization=QUANTIZED)


def test_only_exceptions_without_a_default() -> None:
    block = {Q0: {"group_size": 64, "bits": 8}, "lm_head": False}
    assert spec(block, Q0) == QuantSpec(8, 64)
    assert spec(block, "lm_head") is None
    assert spec(block, "model.layers.1.self_attn.q_proj") is None
    for empty in ({Q0: True}, {Q0: False}):
        refused(DENSE | {"quantization": empty}, "bits and group_size")


def test_a_foreign_method_beside_bits_is_no_mlx_packing() -> None:
    refused(DENSE | {"quantization": QUANTIZED | {"quant_method": "hqq"}}, "'hqq'", "'mlx'")


def mscale(block: Values) -> float:
    yarn = read(DENSE, rope_scaling=block).rope.scaling
    assert yarn is not None
    return yarn.mscale


def test_attn_factor_multiplies_what_yarn_has() -> None:
    """As vLLM and llama.cpp read it; DeepSeek's makes the product 1."""
    own = 0.1 * math.log(4) + 1
    assert mscale(DEEPSEEK) == pytest.approx(1.0, abs=1e-12)
    assert mscale(YARN | {"attn_factor": 2.0}) == pytest.approx(2 * own)
    assert mscale(YARN | {"attn_factor": 1}) == pytest.approx(own)
    assert mscale(DEEPSEEK | {"attention_factor": 1.0}) == pytest.approx(1.0)
    refused(DENSE | {"rope_scaling": DEEPSEEK | {"attention_factor": 1.2}}, "attn_factor", "1.2")


def test_mscale_as_transformers_reads_it() -> None:
    log = 0.1 * math.log(4)
    both = YARN | {"mscale": 0.707, "mscale_all_dim": 1.0}
    assert mscale(both) == pytest.approx((0.707 * log + 1) / (log + 1))
    assert mscale(YARN | {"mscale": 1.0}) == pytest.approx(log + 1)
    assert mscale(YARN | {"mscale_all_dim": 0}) == pytest.approx(log + 1)
    refused(DENSE | {"rope_scaling": YARN | {"mscale": 0.707}}, "mscale", "together")


@pytest.mark.parametrize(
    "more",
    [
        {"partial_rotary_factor": 1.0},
        {"extrapolation_factor": 1.0},
        {"finetuned": True},
        {"original_max_position_embeddings": 32768.0},
        {"type": "yarn"},
        {"rope_theta": 1000000},
    ],
    ids=lambda more: next(iter(more)),
)
def test_yarn_with_what_changes_nothing(more: Values) -> None:
    assert read(DENSE, rope_scaling=YARN | more) == read(DENSE, rope_scaling=YARN)


@pytest.mark.parametrize("kind", [{}, {"rope_type": "default"}, {"type": None}])
@pytest.mark.parametrize(
    "said",
    [
        {"factor": 4.0},
        {"attention_factor": 1.2},
        {"partial_rotary_factor": 0.5},
        {"mrope_section": [16, 24, 24]},
        {"low_freq_factor": 1.0},
    ],
    ids=lambda said: next(iter(said)),
)
@pytest.mark.parametrize("place", ["rope_scaling", "rope_parameters"])
def test_a_scaling_without_a_type_is_not_passed_over(
    place: str, said: Values, kind: Values
) -> None:
    values = new_spelling(DENSE) if place == "rope_parameters" else DENSE
    block = {"rope_theta": 1e6} if place == "rope_parameters" else {}
    refused(values | {place: block | kind | said}, next(iter(said)))


def test_what_is_true_of_an_unscaled_model_may_stand_there() -> None:
    plain = {"rope_type": "default", "factor": 1.0, "original_max_position_embeddings": 32768}
    assert read(DENSE, rope_scaling=plain) == read(DENSE)
    refused(DENSE | {"rope_scaling": YARN | {"type": "linear"}}, "'linear'", "'yarn'")
    refused(DENSE | {"rope_scaling": YARN | {"partial_rotary_factor": 0.5}}, "0.5")


@pytest.mark.parametrize("values", [DENSE, MOE], ids=["dense", "moe"])
@pytest.mark.parametrize("scaling", [None, {"rope_type": "default"}, YARN, DEEPSEEK])
def test_both_spellings_of_rope_where_they_agree(values: Values, scaling: Values | None) -> None:
    """What our own converter writes for transformers 5's files, so that mlx-lm reads them."""
    old = values | {"rope_scaling": scaling}
    both = new_spelling(old) | {"rope_theta": 1e6, "rope_scaling": scaling}
    assert Qwen3Config.from_dict(both) == Qwen3Config.from_dict(old)
    other = both | {"rope_scaling": YARN | {"factor": 2.0}}
    refused(other, "rope_parameters and rope_scaling")
    refused(both | {"rope_theta": 5e6}, "rope_theta")


def test_what_transformers_fills_in() -> None:
    def without(values: Values, key: str) -> Qwen3Config:
        return Qwen3Config.from_dict({k: v for k, v in values.items() if k != key})

    assert without(DENSE, "head_dim").head_dim == 128  # Qwen3Config's default
    assert without(MOE | {"hidden_size": 2048}, "head_dim").head_dim == 128
    assert without(MOE, "head_dim").head_dim == 64  # Qwen3MoeConfig has none: 1024 / 16
    assert read(DENSE, head_dim=None).head_dim == 128
    assert without(DENSE, "max_position_embeddings").max_position_embeddings == 32_768
    assert without(DENSE, "rope_theta").rope.theta == 10_000
    assert read(DENSE, num_key_value_heads=None).num_key_value_heads == 16


@pytest.mark.parametrize("key", sorted(set(IGNORED) - {"bos_token_id"}))
def test_harmless_keys(key: str) -> None:
    assert read(DENSE, **{key: "anything"}) == read(DENSE)


WRONG: dict[str, Any] = {
    "attention_bias": True,
    "hidden_act": "gelu",
    "mlp_bias": True,
    "num_nextn_predict_layers": 1,
    "partial_rotary_factor": 0.5,
    "pretraining_tp": 2,
    "qk_norm": False,
    "qkv_bias": True,
    "rope_interleaved": True,
    "scoring_func": "sigmoid",
    "use_mrope": True,
    "use_qk_norm": False,
    "use_sliding_window": True,
}


@pytest.mark.parametrize("key", sorted(FIXED))
def test_keys_with_the_value_that_changes_nothing(key: str) -> None:
    for value in FIXED[key]:
        assert read(DENSE, **{key: value}) == read(DENSE)
    refused(DENSE | {key: WRONG[key]}, key, repr(WRONG[key]))


def test_a_byte_order_mark(tmp_path: Path) -> None:
    """Windows' editors write one."""
    (tmp_path / "config.json").write_text(json.dumps(DENSE), "utf-8-sig")
    assert Qwen3Config.from_dir(tmp_path) == read(DENSE)
