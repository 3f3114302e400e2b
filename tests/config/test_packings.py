"""How other tools say that they packed: what is read of it, and what is refused with its words."""

from __future__ import annotations

from typing import Any

import pytest

from qwen3_mlx.config.packing import Packing, read
from qwen3_mlx.errors import ConfigError

Block = dict[str, Any]
INT4 = {"type": "int", "num_bits": 4}
CT: Block = {"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": INT4}}}
ROUND: Block = {"quant_method": "auto-round", "bits": 4}


def awq(**changes: Any) -> Block:
    return {"quant_method": "awq", "bits": 4} | changes


def gptq(**changes: Any) -> Block:
    return {"quant_method": "gptq", "bits": 4} | changes


def rotated(*places: object) -> Block:
    group = {"apply": [{"location": place} for place in places]}
    return {"transform_config": {"config_groups": {"u": group}}}


@pytest.mark.parametrize(
    ("block", "method", "bits", "offset", "others"),
    [
        ({"quant_method": "fp8"}, "fp8", 8, 0, set()),
        ({"quant_method": "fbgemm_fp8", "fmt": None}, "fp8", 8, 0, set()),
        ({"quant_method": "fp8", "weight_block_size": [1, 1]}, "fp8", 8, 0, set()),
        (awq(), "awq", 4, 0, set()),
        (awq(zero_point=True, version="GEMV"), "awq", 4, 0, set()),
        ({"quant_method": "awq", "w_bit": 4}, "awq", 4, 0, set()),
        *((gptq(bits=bits), "gptq", bits, 1, set()) for bits in (2, 3, 4, 8)),
        (gptq(checkpoint_format="gptq_v2"), "gptq", 4, 0, set()),
        (gptq(format="gptq_v2", pack_dtype="int32"), "gptq", 4, 0, set()),
        (gptq(dynamic={"a": {"bits": 8}, "-:b": {"bits": 5}, "c": {}}), "gptq", 4, 1, {8}),
        (ROUND, "gptq", 4, None, set()),
        (ROUND | {"sym": True, "data_type": None}, "gptq", 4, None, set()),
        (ROUND | {"backend": "gptq:exllama", "sym": False}, "gptq", 4, 1, set()),
        (ROUND | {"packing_format": "auto_round:auto_gptq"}, "gptq", 4, 1, set()),
        (ROUND | {"packing_format": "auto_round:auto_awq", "sym": False}, "awq", 4, 0, set()),
        (ROUND | {"extra_config": {"a": {"bits": 8}}}, "gptq", 4, None, {8}),
        (ROUND | {"extra_config": {"a": {"bits": 16}, "b": "x"}}, "gptq", 4, None, set()),
        (ROUND | {"quant_method": "intel/auto-round"}, "gptq", 4, None, set()),
        (CT, "compressed-tensors", None, 0, {4}),
        (
            CT | {"format": "pack-quantized", "sparsity_config": {}},
            "compressed-tensors",
            None,
            0,
            {4},
        ),
        (CT | {"sparsity_config": {"format": "dense"}}, "compressed-tensors", None, 0, {4}),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes", 4, 0, set()),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes", 8, 0, set()),
        (awq(transform_config={}), "awq", 4, 0, set()),
        (awq(**rotated()), "awq", 4, 0, set()),
        (awq(**rotated("weight_input", "weight_output")), "awq", 4, 0, set()),
        (awq(transform_config={"config_groups": {}}), "awq", 4, 0, set()),
    ],
)
def test_what_convert_reads(
    block: Block, method: str, bits: int | None, offset: int | None, others: set[int]
) -> None:
    found = read(block)
    assert found is not None
    assert (found.method, found.bits, found.zero_offset) == (method, bits, offset)
    assert found.other_bits == others


def test_settings_that_are_left_out_have_defaults() -> None:
    assert Packing("awq", 4, {}).zero_offset == 0
    for block in ({"quant_method": "mlx"}, {"bits": 4, "group_size": 64}):
        assert read(block) is None


ROTATION = "no rotation of what the network computes: its weights alone don't hold it"
FP8 = "fmt 'e4m3' and weight_block_size [rows, columns] or none"
AWQ = "bits 4, version 'gemm' or 'gemv', zero_point true"
GPTQ = "bits 2, 3, 4 or 8, checkpoint_format 'gptq' or 'gptq_v2', words of int32"
AUTO = (
    "data_type 'int', and packing_format 'auto_round:auto_gptq' or 'auto_round:auto_awq',"
    " or sym true"
)
FORMATS = (
    "format pack-quantized, int-quantized, float-quantized, naive-quantized,"
    " nvfp4-pack-quantized, mixed-precision, dense, without sparsity"
)


def fp8_case(fmt: object, size: object) -> tuple[Block, str, str]:
    block = {"quant_method": "fp8", "fmt": fmt, "weight_block_size": size}
    return block, f"fmt {fmt!r}, weight_block_size {size!r}", FP8


def awq_case(**changes: Any) -> tuple[Block, str, str]:
    said = {"bits": 4, "version": "gemm", "zero_point": True} | changes
    got = f"bits {said['bits']!r}, version {said['version']!r}, zero_point {said['zero_point']!r}"
    return awq(**changes), got, AWQ


def gptq_case(words: str = "int32", bits: object = 4, **changes: Any) -> tuple[Block, str, str]:
    kind = changes.get("checkpoint_format", "gptq")
    got = f"bits {bits!r}, checkpoint_format {kind!r}, words of {words}"
    return gptq(**changes), got, GPTQ


def round_case(kind: str = "auto_round", **changes: Any) -> tuple[Block, str, str]:
    said = {"sym": True, "data_type": "int"} | changes
    got = f"packing_format {kind!r}, sym {said['sym']!r}, data_type {said['data_type']!r}"
    return ROUND | {"packing_format": kind} | changes, got, AUTO


def four_bits(kind: object) -> tuple[Block, str, str]:
    block = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": kind}
    got = f"load_in_4bit True, load_in_8bit False, bnb_4bit_quant_type {kind!r}"
    return block, got, "4 bits (nf4 or fp4) or 8"


@pytest.mark.parametrize(
    ("block", "got", "expected"),
    [
        *(fp8_case("e4m3", size) for size in ([128], [0, 128], [128, 1.5], 128, [1, 2, 3])),
        fp8_case("e5m2", [128, 128]),
        *(awq_case(**one) for one in ({"bits": 8}, {"version": "marlin"}, {"zero_point": False})),
        gptq_case(checkpoint_format="marlin"),
        gptq_case("int64", pack_dtype="int64"),
        gptq_case(bits=6, dynamic={"a": {"bits": 6}}),
        *((gptq(bits=n), gptq_case(bits=n)[1], GPTQ) for n in (1, 5, 6, 7, 9, 4.0, True, None)),
        (gptq(dynamic=[1]), "dynamic [1]", "an object of rules by module"),
        round_case(sym=False),
        round_case("auto_round:exllamav2", sym=False),
        round_case(data_type="mx_fp"),
        round_case("llm_compressor"),
        (
            ROUND | {"extra_config": {"x": {"sym": False}, "y": {"sym": True}}},
            "some modules with sym false",
            "sym true for all",
        ),
        (CT | {"config_groups": {}}, "config_groups {}", "groups of modules"),
        (CT | {"config_groups": [1]}, "config_groups [1]", "groups of modules"),
        (CT | {"format": "marlin-24"}, "format 'marlin-24'", FORMATS),
        (
            CT | {"sparsity_config": {"format": "sparse-24"}},
            "format None, and a sparsity format",
            FORMATS,
        ),
        (
            CT | {"config_groups": {"a": {"weights": {"type": "float", "num_bits": 4}}}},
            "a: 4-bit floats, not NVFP4",
            "groups of 16",
        ),
        *(four_bits(kind) for kind in ("int4", None)),
        (
            {"quant_method": "bitsandbytes"},
            "load_in_4bit False, load_in_8bit False, bnb_4bit_quant_type None",
            "4 bits (nf4 or fp4) or 8",
        ),
        *(
            (
                awq() | rotated(place),
                f"transform_config {rotated(place)['transform_config']}",
                ROTATION,
            )
            for place in ("input", None, 3)
        ),
        (awq(rotation="hadamard"), "rotation 'hadamard'", ROTATION),
        (
            awq(transform_config={"config_groups": [1]}),
            "transform_config {'config_groups': [1]}",
            ROTATION,
        ),
        (
            awq() | rotated("weight_input", "output"),
            f"transform_config {rotated('weight_input', 'output')['transform_config']}",
            ROTATION,
        ),
        (
            awq(transform_config={"config_groups": {"u": {"apply": "all"}}}),
            "transform_config {'config_groups': {'u': {'apply': 'all'}}}",
            ROTATION,
        ),
    ],
)
def test_what_is_refused(block: Block, got: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(block)
    aliases = {"fbgemm_fp8": "fp8"}
    method = aliases.get(block["quant_method"], block["quant_method"])
    short = got if len(got) < 130 else got[:130]
    assert str(caught.value).startswith(f"config.json: quantization_config ({method}): got {short}")
    assert str(caught.value).endswith(
        f", expected {expected}\nhint: take the model's unquantized release, or one that MLX packed"
        " such as the alias 8b"
    )


@pytest.mark.parametrize(
    ("block", "got"), [({"quant_method": "hqq"}, "'hqq'"), ({"x": 1}, "{'x': 1}")]
)
def test_a_tool_that_is_unknown(block: Block, got: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(block)
    assert str(caught.value) == (
        f"config.json: quantization_config: got {got}, expected fp8, fbgemm_fp8, awq, gptq,"
        " auto-round, compressed-tensors, bitsandbytes, or MLX's own\nhint: take the model's"
        " unquantized release, or one that MLX packed such as the alias 8b"
    )


@pytest.mark.parametrize("weights", [{"type": "float", "num_bits": 4, "group_size": 16}, None])
def test_groups_of_compressed_tensors(weights: Block | None) -> None:
    groups = {"a": {"weights": weights}, "b": {"weights": INT4}, "c": {"weights": None}}
    found = read(CT | {"config_groups": groups})
    assert found is not None and found.other_bits == {4}
