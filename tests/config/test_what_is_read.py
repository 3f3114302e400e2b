"""Each value that is read, and the edges of what is accepted; whole messages where it isn't."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.config.quantization import QuantSpec
from qwen3_mlx.config.rope import Yarn
from qwen3_mlx.errors import ConfigError, ContextError
from tests.configs import DENSE, MOE, QUANTIZED, YARN, Values, read, refused


def without(values: Values, *keys: str) -> Values:
    return {key: value for key, value in values.items() if key not in keys}


def test_what_config_json_may_leave_out() -> None:
    """As transformers' Qwen3Config and Qwen3MoeConfig fill it in."""
    dense = read(without(DENSE, "head_dim", "max_position_embeddings", "tie_word_embeddings"))
    assert (dense.head_dim, dense.max_position_embeddings) == (128, 32_768)
    assert dense.tie_word_embeddings is False and dense.head is True
    experts = (dense.num_experts, dense.num_experts_per_tok, dense.moe_intermediate_size)
    assert experts == (0, 0, 0) and dense.norm_topk_prob is False
    assert (dense.decoder_sparse_step, dense.mlp_only_layers) == (1, ())
    mixture = read(without(MOE, "norm_topk_prob", "decoder_sparse_step", "mlp_only_layers"))
    assert mixture.norm_topk_prob is False
    assert (mixture.decoder_sparse_step, mixture.mlp_only_layers) == (1, ())


@pytest.mark.parametrize(
    ("key", "most"),
    [("num_hidden_layers", 1000), ("num_experts", 10_000)],
)
def test_counts_that_are_gone_through_one_by_one(key: str, most: int) -> None:
    for value in (1, most):
        assert getattr(read(MOE | {"num_experts_per_tok": 1}, **{key: value}), key) == value
    for value in (0, most + 1):
        message = refused(MOE | {key: value})
        assert message == f"config.json: {key}: got {value}, expected 1 to {most:,}"


@pytest.mark.parametrize("key", ["vocab_size", "intermediate_size", "max_position_embeddings"])
def test_sides_of_arrays(key: str) -> None:
    for value in (1, 2**31 - 1):
        assert getattr(read(DENSE, **{key: value}), key) == value
    for value in (0, 2**31):
        message = refused(DENSE | {key: value})
        assert message == f"config.json: {key}: got {value}, expected above 0, below 2**31"


def test_layers_without_experts() -> None:
    assert len(read(MOE, mlp_only_layers=[0] * 1000).mlp_only_layers) == 1000
    refused(MOE | {"mlp_only_layers": [0] * 1001}, "mlp_only_layers", "layer numbers")
    third = read(MOE, decoder_sparse_step=3, num_hidden_layers=7, mlp_only_layers=[5])
    assert [third.is_moe_layer(i) for i in range(7)] == [False] * 2 + [True] + [False] * 4


def test_heads_without_a_width() -> None:
    assert read(without(MOE, "head_dim"), hidden_size=512).head_dim == 512 // 16
    refused(without(MOE, "head_dim") | {"num_attention_heads": 0}, "num_attention_heads", "got 0")
    assert read(DENSE, num_key_value_heads=None).num_key_value_heads == 16
    refused(without(DENSE, "num_key_value_heads"), "num_key_value_heads is missing")


@pytest.mark.parametrize(
    ("key", "same", "others"),
    [
        *((key, (False, None), (True,)) for key in ("attention_bias", "mlp_bias", "qkv_bias")),
        *((key, (False, None), (True,)) for key in ("rope_interleaved", "use_mrope")),
        *((key, (True, None), (False,)) for key in ("qk_norm", "use_qk_norm")),
        *((key, (1, 1.0, None), (0.5, 2)) for key in ("partial_rotary_factor", "pretraining_tp")),
        ("use_sliding_window", (False, None), (True,)),
        ("num_nextn_predict_layers", (0, None), (1,)),
        ("scoring_func", ("softmax", None), ("sigmoid",)),
    ],
)
def test_keys_with_one_value(key: str, same: tuple[Any, ...], others: tuple[Any, ...]) -> None:
    for value in same:
        assert read(DENSE, **{key: value}) == read(DENSE)
    for value in others:
        message = refused(DENSE | {key: value})
        assert message == f"config.json: {key}: got {value!r}, expected {same[0]!r}"


@pytest.mark.parametrize("native", [{"max_position_embeddings": 40_960}, {"rope_scaling": YARN}])
def test_contexts_and_the_factors_that_reach_them(native: Values) -> None:
    config = read(DENSE, **native)
    served = 131_072 if config.rope.scaling else 40_960
    assert (config.native_context, config.context) == (32_768, served)
    assert config.for_context(served) is config
    more = config.for_context(served + 1)
    assert more.rope.scaling == Yarn(float(served // 32_768 + 1), 32_768)
    largest = config.for_context(32 * 32_768)
    assert largest.rope.scaling == Yarn(32.0, 32_768) and largest.context == 1_048_576
    with pytest.raises(ContextError) as caught:
        config.for_context(1_048_577)
    assert str(caught.value) == (
        "context: got 1048577 tokens, expected at most 1048576"
        "\nhint: YaRN reaches 32 × the native 32768 tokens"
    )


def test_the_headroom_is_qwens_alone() -> None:
    for length in (32_768, 40_959, 40_961, 262_144):
        assert read(DENSE, max_position_embeddings=length).native_context == length


def test_what_a_yarn_block_says() -> None:
    assert read(DENSE, rope_scaling=YARN).rope.scaling == Yarn(4.0, 32_768, 32.0, 1.0, None, True)
    for factor in (1, 1.5, 4.0, 32):
        scaling = read(DENSE, rope_scaling=YARN | {"factor": factor}).rope.scaling
        assert scaling is not None
        assert scaling.mscale == pytest.approx(0.1 * math.log(factor) + 1)
        assert replace(scaling, attention_factor=1.25).mscale == 1.25
    for truncate in (True, False):
        scaling = read(DENSE, rope_scaling=YARN | {"truncate": truncate}).rope.scaling
        assert scaling is not None and scaling.truncate is truncate
    message = refused(DENSE | {"rope_scaling": YARN | {"truncate": 1}})
    assert message == "config.json: RoPE truncate: got 1, expected a bool"
    message = refused(DENSE | {"rope_scaling": YARN | {"factor": 0.99}})
    assert message == "config.json: RoPE factor: got 0.99, expected a number from 1"


@pytest.mark.parametrize(
    ("given", "scale"),
    [
        ({"mscale": 1}, 1 + 0.1 * math.log(4)),
        ({"mscale_all_dim": 1}, 1 + 0.1 * math.log(4)),
        ({"mscale": 1, "mscale_all_dim": 0}, 1 + 0.1 * math.log(4)),
        ({"mscale": 1, "mscale_all_dim": 1}, 1.0),
        ({"mscale": 2, "mscale_all_dim": 0.5}, (1 + 0.2 * math.log(4)) / (1 + 0.05 * math.log(4))),
        ({"attn_factor": 0.5}, 0.5 * (1 + 0.1 * math.log(4))),
    ],
)
def test_what_queries_and_keys_are_multiplied_by(given: Values, scale: float) -> None:
    """transformers' quotient of two scales, or vLLM's factor on YaRN's own."""
    scaling = read(DENSE, rope_scaling=YARN | given).rope.scaling
    assert scaling is not None and scaling.mscale == pytest.approx(scale)


@pytest.mark.parametrize(
    ("key", "same", "others", "expected"),
    [
        ("partial_rotary_factor", (1, 1.0), (0, 0.5, 2), "1"),
        ("extrapolation_factor", (1,), (0, 2), "1"),
        ("finetuned", (True, False), ("yes",), "True or False"),
        ("mrope_section", (None,), ([16, 24, 24], 0), "nothing"),
        ("mrope_interleaved", (False,), (True,), "False"),
    ],
)
def test_settings_of_rope_without_effect(
    key: str, same: tuple[Any, ...], others: tuple[Any, ...], expected: str
) -> None:
    for value in same:
        assert read(DENSE, rope_scaling=YARN | {key: value}) == read(DENSE, rope_scaling=YARN)
    for value in others:
        message = refused(DENSE | {"rope_scaling": YARN | {key: value}})
        assert message == (
            f"config.json: RoPE {key}: got {value!r}, expected {expected}:"
            " Qwen3 rotates whole heads by one position"
        )


@pytest.mark.parametrize(
    ("kind", "said"), [({}, "missing"), ({"rope_type": "default"}, "'default'")]
)
def test_scaling_without_a_type(kind: Values, said: str) -> None:
    still = {"factor": 1, "original_max_position_embeddings": 32_768}
    assert read(DENSE, rope_scaling=kind | still).rope.scaling is None
    assert refused(DENSE | {"rope_scaling": kind | {"factor": 4.0}}) == (
        f"config.json: RoPE factor: got 4.0 with rope_type {said}, expected rope_type 'yarn', or"
        " no scaling\nhint: without a type nothing says how positions are to be scaled"
    )


@pytest.mark.parametrize("theta", [1e6, 5_000_000])
def test_a_base_that_one_place_leaves_open(theta: float) -> None:
    block = {"rope_parameters": {"rope_type": "default", "rope_theta": theta}}
    assert read(DENSE | {"rope_theta": None}, **block).rope.theta == theta
    assert read(without(DENSE, "rope_theta"), **block).rope.theta == theta
    assert read(without(DENSE, "rope_theta")).rope.theta == 10_000


@pytest.mark.parametrize("bits", range(1, 10))
@pytest.mark.parametrize("group", [8, 16, 17, 32, 64, 128, 256])
def test_bits_and_groups_that_mlx_packs(bits: int, group: int) -> None:
    block = {"bits": bits, "group_size": group}
    if bits in (2, 3, 4, 5, 6, 8) and group in (16, 32, 64, 128):
        quantization = read(DENSE, quantization=block).quantization
        assert quantization is not None and quantization.default == QuantSpec(bits, group, "affine")
        return
    assert refused(DENSE | {"quantization": block}) == (
        f"config.json: quantization of quantization: got bits {bits}, group_size {group}, expected"
        " bits 2, 3, 4, 5, 6 or 8 and group_size 16, 32, 64 or 128"
    )


@pytest.mark.parametrize("given", [{"bits": 4}, {"group_size": 64}])
def test_half_a_packing(given: Values) -> None:
    both = {"bits": 0, "group_size": 0} | given
    words = f"got bits {both['bits']}, group_size {both['group_size']}, expected"
    refused(DENSE | {"quantization": given}, words)


def test_packings_that_are_listed_by_module() -> None:
    """The default is then the most frequent, and nothing that isn't listed is packed."""
    eight, four = {"bits": 8, "group_size": 32}, {"bits": 4, "group_size": 64}
    block = {"a": eight, "b": four, "c": four, "d": False}
    found = read(DENSE, quantization=block).quantization
    assert found is not None and found.listed_only and found.default == QuantSpec(4, 64)
    specs = [found.spec(path) for path in ("a", "b", "d", "other")]
    assert specs == [QuantSpec(8, 32), QuantSpec(4, 64), None, None]
    usual = read(DENSE, quantization=QUANTIZED | {"a": True, "b": False}).quantization
    assert usual is not None and not usual.listed_only
    assert [usual.spec(path) for path in "abc"] == [QuantSpec(4, 64), None, QuantSpec(4, 64)]


def test_bits_of_its_own_are_affine_beside_a_mode() -> None:
    block = {"bits": 4, "group_size": 32, "mode": "mxfp4"}
    own = {"router": {"bits": 8, "group_size": 64}, "finer": {"group_size": 16}}
    found = read(DENSE, quantization=block | own).quantization
    assert found is not None
    assert found.spec("router") == QuantSpec(8, 64, "affine")
    assert found.spec("finer") == QuantSpec(4, 16, "mxfp4")


@pytest.mark.parametrize("more", ["x" * 10, "x" * 1000])
def test_a_long_value_is_quoted_by_its_beginning(more: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Qwen3Config.from_dict(DENSE | {"quantization_config": {"quant_method": more}})
    quoted = repr(more) if len(more) == 10 else f"'{'x' * 119}… and 882 characters more"
    assert caught.value.got == quoted
