"""Every foreign format, against a float reference made from its definition."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx
import numpy as np
import pytest

from qwen3_mlx.checkpoint import load_network
from qwen3_mlx.errors import CheckpointError, ConfigError
from qwen3_mlx.quantize.formats import open_source
from qwen3_mlx.quantize.formats.awq import ORDER
from qwen3_mlx.quantize.formats.parts import Part
from qwen3_mlx.quantize.pack import packed_blocks
from tests.quantize import foreign, packed
from tests.quantize.build import DENSE, MOE, bf16, bf16_model, from_bf16, write_model


def ct(kind: str, bits: int, **others: Any) -> dict[str, Any]:
    weights = {"type": kind, "num_bits": bits, "symmetric": True, "strategy": "group"} | others
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    return {"quant_method": "compressed-tensors", "config_groups": groups, "ignore": ["lm_head"]}


CT4 = ct("int", 4, group_size=64) | {"format": "pack-quantized"}
NF4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
INT8 = {"quant_method": "bitsandbytes", "load_in_4bit": False, "load_in_8bit": True}
ROUND = {"quant_method": "auto-round", "bits": 4, "packing_format": "auto_round:auto_gptq"}
OWN = ROUND | {"packing_format": "auto_round:exllamav2", "sym": True}
FP8 = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True, "version": "gemm"}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 64, "desc_act": False, "sym": False}
RAGGED = DENSE | {"hidden_size": 192, "intermediate_size": 320}


def half(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float16)


CASES: dict[str, tuple[dict[str, Any], dict[str, Any], Any]] = {
    "fp8": (DENSE, FP8, foreign.fp8),
    "fp8, ragged blocks": (RAGGED, FP8, foreign.fp8),
    "fp8, experts": (MOE, FP8, foreign.fp8),
    "awq": (DENSE, AWQ, foreign.awq),
    "awq, groups of 32": (DENSE, AWQ, partial(foreign.awq, group=32)),
    "awq, experts": (MOE, AWQ, foreign.awq),
    "gptq": (DENSE, GPTQ, foreign.gptq),
    "gptq, activation order": (DENSE, GPTQ, partial(foreign.gptq, act_order=True)),
    "gptq, no g_idx": (DENSE, GPTQ, partial(foreign.gptq, with_index=False)),
    "gptq, version 2": (
        DENSE,
        GPTQ | {"checkpoint_format": "gptq_v2"},
        partial(foreign.gptq, version=2),
    ),
    "gptq, 8 bits": (DENSE, GPTQ | {"bits": 8}, partial(foreign.gptq, bits=8)),
    "gptq, 2 bits": (DENSE, GPTQ | {"bits": 2}, partial(foreign.gptq, bits=2)),
    "gptq, 3 bits": (DENSE, GPTQ | {"bits": 3}, packed.gptq3),
    "gptq, mixed bits": (
        DENSE,
        GPTQ | {"dynamic": {"+:.*up.*": {"bits": 8}, "-:.*down.*": {}}},
        packed.gptq_mixed(),
    ),
    "auto-round": (DENSE, ROUND | {"extra_config": {"x": {"bits": 8}}}, packed.gptq_mixed()),
    "auto-round's own": (DENSE, OWN, partial(packed.gptq_symmetric, stored=8)),
    "auto-round's own, older": (DENSE, OWN, partial(packed.gptq_symmetric, stored=7)),
    "auto-round, unsaid": (MOE, {**OWN, "packing_format": None}, packed.gptq_symmetric),
    "auto-round as awq": (DENSE, ROUND | {"packing_format": "auto_round:auto_awq"}, foreign.awq),
    "awq, gemv": (DENSE, AWQ | {"version": "GEMV"}, packed.awq_gemv),
    "fp8, a tensor": (DENSE, {"quant_method": "fp8"}, partial(packed.fp8, kind="tensor")),
    "fp8, a row": (DENSE, {"quant_method": "fbgemm_fp8"}, partial(packed.fp8, kind="row")),
    "compressed, fp8": (DENSE, ct("float", 8, strategy="channel"), partial(packed.fp8, kind="row")),
    "compressed, W4A16": (DENSE, CT4, packed.words),
    "compressed, W4A16, asymmetric": (DENSE, CT4, partial(packed.words, zeros=True)),
    "compressed, W4A16, act order": (DENSE, CT4, partial(packed.words, order=True)),
    "compressed, W8A16": (DENSE, ct("int", 8), partial(packed.words, bits=8)),
    "compressed, W8A8": (MOE, ct("int", 8), packed.int8),
    "compressed, NVFP4": (MOE, ct("float", 4, group_size=16), packed.nvfp4),
    "nf4": (DENSE, NF4, packed.nf4),
    "nf4, double": (MOE, NF4, partial(packed.nf4, double=True)),
    "int8": (DENSE, INT8, partial(packed.int8, name="SCB")),
    "gptq, experts": (MOE, GPTQ, partial(foreign.gptq, act_order=True)),
}


@pytest.mark.parametrize("floats", [bf16, half], ids=["bf16", "fp16"])
@pytest.mark.parametrize("case", CASES)
def test_a_foreign_checkpoint_is_its_float_reference_rounded_once(
    tmp_path: Path, case: str, floats: Any
) -> None:
    config, block, pack = CASES[case]
    tensors, dense = foreign.model(config, pack, floats)
    write_model(tmp_path, config | {"quantization_config": block}, tensors, shards=3)
    source = open_source(tmp_path)
    aliases = {"fbgemm_fp8": "fp8", "auto-round": "gptq"}
    method = str(block["quant_method"])
    expected = "awq" if "awq" in str(block.get("packing_format")) else aliases.get(method, method)
    assert source.format == expected
    assert source.dtype == (mx.bfloat16 if floats is bf16 else mx.float16)
    seen = set()
    for weight in source.weights:
        for part, name in zip(weight.parts, hf_names(weight.path, len(weight.parts)), strict=True):
            assert np.array_equal(rows_of(part, mx.float32), two_d(dense[name])), name
            want = from_bf16(bf16(dense[name])) if floats is bf16 else half(dense[name])
            assert source.dtype is not None
            assert np.array_equal(rows_of(part, source.dtype), two_d(want)), name
            seen.add(name)
    assert seen == set(dense)


def hf_names(path: str, parts: int) -> list[str]:
    if ".switch_mlp." not in path:
        return [f"{path}.weight"]
    block, _, projection = path.partition(".switch_mlp.")
    return [f"{block}.experts.{n}.{projection}.weight" for n in range(parts)]


def rows_of(part: Part, dtype: mx.Dtype) -> np.ndarray:
    return np.array(part.open(dtype)(0, part.shape[0]).astype(mx.float32))


def two_d(x: np.ndarray) -> np.ndarray:
    return x.reshape(-1, x.shape[-1]).astype(np.float32)


def test_a_symmetric_packing_that_is_not(tmp_path: Path) -> None:
    """Zeros of all values, where config.json calls them symmetric: never a guess."""
    for stored in (6, 9):
        tensors, _ = foreign.model(DENSE, partial(packed.gptq_symmetric, stored=stored))
        write_model(tmp_path / str(stored), DENSE | {"quantization_config": OWN}, tensors)
        weights = open_source(tmp_path / str(stored)).weights
        part = next(w for w in weights if w.path.endswith("o_proj")).parts[0]
        with pytest.raises(CheckpointError, match=f"zeros of {stored} to {stored}, expected 8"):
            part.open(mx.float32)
    tensors, _ = foreign.model(DENSE, foreign.gptq)
    write_model(tmp_path / "mixed", DENSE | {"quantization_config": OWN}, tensors)
    weights = open_source(tmp_path / "mixed").weights
    part = next(w for w in weights if w.path.endswith("o_proj")).parts[0]
    with pytest.raises(CheckpointError, match="is not symmetric"):
        part.open(mx.float32)


SLICED = ["fp8, ragged blocks", "awq", "gptq, activation order", "gptq", "gptq, 3 bits", "nf4"]
SLICED += ["compressed, W4A16, asymmetric", "compressed, W4A16, act order", "awq, gemv", "int8"]


@pytest.mark.parametrize("case", SLICED)
@pytest.mark.parametrize("start, stop", [(0, 1), (3, 17), (64, 65), (100, 192), (127, 129)])
def test_any_rows_are_those_of_the_whole(tmp_path: Path, case: str, start: int, stop: int) -> None:
    config, block, pack = CASES[case]
    tensors, dense = foreign.model(config, pack)
    write_model(tmp_path, config | {"quantization_config": block}, tensors)
    source = open_source(tmp_path)
    name = "model.layers.1.mlp.gate_proj"
    part = next(w for w in source.weights if w.path == name).parts[0]
    got = np.array(part.open(mx.float32)(start, stop))
    assert np.array_equal(got, dense[f"{name}.weight"][start:stop])


def test_mlx_decodes_every_fp8_code() -> None:
    got = np.array(mx.from_fp8(mx.arange(256).astype(mx.uint8), mx.float32))
    assert np.array_equal(got, foreign.e4m3_table().astype(np.float32), equal_nan=True)


def test_the_awq_order_is_a_permutation_that_interleaves() -> None:
    assert ORDER == foreign.AWQ_ORDER and sorted(ORDER) == list(range(8))


@pytest.mark.parametrize(
    "mode, bits, group", [("affine", 4, 64), ("affine", 5, 32), ("mxfp4", 4, 32)]
)
@pytest.mark.parametrize("config", [DENSE, MOE], ids=["dense", "moe"])
def test_mlx_packed_weights_read_as_mlx_unpacks_them(
    tmp_path: Path, mode: str, bits: int, group: int, config: dict[str, Any]
) -> None:
    weight = mx.array(np.random.default_rng(0).standard_normal((4, 96, 128)).astype(np.float32))
    packed = mx.quantize(weight, group, bits, mode=mode)
    from qwen3_mlx.checkpoint.headers import read_header
    from qwen3_mlx.config.quantization import QuantSpec
    from qwen3_mlx.quantize.formats.mlx import MlxPart

    names = ("weight", "scales", "biases")[: len(packed)]
    mx.save_safetensors(str(tmp_path / "x.safetensors"), dict(zip(names, packed, strict=True)))
    infos = read_header(tmp_path / "x.safetensors")
    part = MlxPart(
        infos["weight"], infos["scales"], infos.get("biases"), QuantSpec(bits, group, mode)
    )
    assert part.shape == (4 * 96, 128)
    want = mx.dequantize(*packed, group_size=group, bits=bits, mode=mode).astype(mx.float32)
    got = part.open(mx.float32)(10, 300)
    assert mx.array_equal(got, want.reshape(-1, 128)[10:300])


def test_blocks_are_the_whole_weight_in_order(tmp_path: Path) -> None:
    source = open_source(bf16_model(tmp_path, MOE))
    for weight in source.weights:
        blocks = [first for (first,) in packed_blocks(weight, None, mx.bfloat16)]
        parts = [part.open(mx.bfloat16)(0, part.shape[0]) for part in weight.parts]
        assert mx.array_equal(mx.concatenate(blocks), mx.concatenate(parts))


BAD_CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "e5m2": (FP8 | {"fmt": "e5m2"}, "e5m2"),
    "no block size": (FP8 | {"weight_block_size": [128]}, "weight_block_size"),
    "awq of 8 bits": (AWQ | {"bits": 8}, "bits 8"),
    "awq gemv_fast": (AWQ | {"version": "gemv_fast"}, "gemv_fast"),
    "gptq of 5 bits": (GPTQ | {"bits": 5}, "bits 5"),
    "gptq, some modules of 5 bits": (GPTQ | {"dynamic": {"+:.*": {"bits": 5}}}, "bits 5"),
    "gptq in int16": (GPTQ | {"pack_dtype": "int16"}, "int16"),
    "auto-round's own": (OWN | {"sym": False}, "'auto_round:exllamav2', sym False"),
    "auto-round's own, a module": (OWN | {"extra_config": {"x": {"sym": False}}}, "sym false"),
    "auto-round in floats": (OWN | {"data_type": "mx_fp"}, "mx_fp"),
    "auto-round for another": (OWN | {"packing_format": "llm_compressor"}, "llm_compressor"),
    "compressed, sparse": (CT4 | {"sparsity_config": {"format": "sparse-24"}}, "sparsity"),
    "compressed, no groups": (CT4 | {"config_groups": {}}, "config_groups"),
    "compressed, 3 bits": (ct("int", 3), "'num_bits': 3"),
    "compressed, marlin": (CT4 | {"format": "marlin-24"}, "marlin-24"),
    "compressed, mxfp4": (ct("float", 4, group_size=32), "NVFP4"),
    "bitsandbytes of no bits": ({"quant_method": "bitsandbytes"}, "load_in_4bit"),
    "marlin": (GPTQ | {"checkpoint_format": "marlin"}, "marlin"),
    "another method": ({"quant_method": "hqq"}, "hqq"),
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_a_quantization_nobody_reads_is_named(tmp_path: Path, case: str) -> None:
    block, said = BAD_CONFIGS[case]
    bf16_model(tmp_path, DENSE | {"quantization_config": block})
    with pytest.raises(ConfigError) as caught:
        open_source(tmp_path)
    assert said in str(caught.value)
    hint = str(caught.value).partition("\nhint: ")[2]
    assert hint and "convert" not in hint
    with pytest.raises(ConfigError) as loading:
        load_network(tmp_path)
    assert str(loading.value) == str(caught.value), "chat says the same as convert"


@pytest.mark.parametrize(
    "block, pack, lost",
    [
        (FP8, foreign.fp8, "weight_scale_inv"),
        (AWQ, foreign.awq, "qzeros"),
        (GPTQ, foreign.gptq, "scales"),
    ],
)
def test_a_tensor_that_is_missing_from_a_packed_matrix_is_named(
    tmp_path: Path, block: dict[str, Any], pack: Any, lost: str
) -> None:
    tensors, _ = foreign.model(DENSE, pack)
    del tensors[f"model.layers.1.self_attn.k_proj.{lost}"]
    write_model(tmp_path, DENSE | {"quantization_config": block}, tensors)
    with pytest.raises(CheckpointError, match=r"model\.layers\.1\.self_attn\.k_proj"):
        open_source(tmp_path)


def test_a_group_index_out_of_range_is_an_error(tmp_path: Path) -> None:
    tensors, _ = foreign.model(DENSE, foreign.gptq)
    name = "model.layers.0.self_attn.q_proj.g_idx"
    index = tensors[name]
    assert isinstance(index, np.ndarray)
    index[3] = 99
    write_model(tmp_path, DENSE | {"quantization_config": GPTQ}, tensors)
    source = open_source(tmp_path)
    part = next(w for w in source.weights if w.path == name.removesuffix(".g_idx")).parts[0]
    with pytest.raises(CheckpointError, match="0 to 99"):
        part.open(mx.float32)
