"""Each packing with a tensor lost, cut, of another type, overflowing, or declared as another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from qwen3_mlx.errors import CheckpointError, ConfigError, Qwen3Error
from qwen3_mlx.quantize.formats import open_source
from tests.quantize import foreign, packed
from tests.quantize.build import DENSE, Bits16, Codes8, Stored, bf16, random_weights, write_model
from tests.quantize.conftest import convert
from tests.quantize.test_formats import AWQ, CASES, CT4, FP8, GPTQ, INT8, NF4, ct

PATH = "model.layers.1.self_attn.k_proj"
# Without these the weight is still whole: an index that counts up, scales of activations.
OPTIONAL = ("g_idx", "input_scale", "k_scale", "input_global_scale", "weight_zero_point")
SOME = [name for name in CASES if "experts" not in name and "mixed" not in name]


def parts(case: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Stored], list[str]]:
    """Config, block and tensors of a case, and the names that one matrix is stored under."""
    config, block, pack = CASES[case]
    tensors, _ = foreign.model(config, pack)
    mine = [name for name in tensors if name.startswith(f"{PATH}.")]
    return config, block, tensors, [n for n in mine if not n.endswith(OPTIONAL)]


def refused(folder: Path, config: dict[str, Any], block: dict[str, Any], tensors: Any) -> str:
    write_model(folder, config | {"quantization_config": block}, tensors)
    with pytest.raises((CheckpointError, ConfigError)) as caught:
        open_source(folder)
    return str(caught.value)


@pytest.mark.parametrize("case", SOME)
def test_a_tensor_that_is_lost(tmp_path: Path, case: str) -> None:
    config, block, tensors, mine = parts(case)
    for number, name in enumerate(mine):
        some = {key: value for key, value in tensors.items() if key != name}
        assert PATH in refused(tmp_path / str(number), config, block, some), name


def cut(stored: Stored) -> Stored:
    """The tensor without its last row."""
    if isinstance(stored, Bits16):
        return type(stored)(stored.bits[:-1])
    return stored[:-1]


@pytest.mark.parametrize("case", SOME)
def test_a_tensor_that_is_cut(tmp_path: Path, case: str) -> None:
    config, block, tensors, mine = parts(case)
    for number, name in enumerate(mine):
        shape = np.shape(tensors[name].bits if isinstance(tensors[name], Bits16) else tensors[name])
        if shape in ((), (1,)):
            continue  # nothing is left of it: the case above
        message = refused(
            tmp_path / str(number), config, block, tensors | {name: cut(tensors[name])}
        )
        assert PATH in message, name


WRONG: dict[str, tuple[str, dict[str, Any]]] = {
    "awq as gptq": ("awq", GPTQ),
    "gptq as awq": ("gptq", AWQ),
    "fp8 as awq": ("fp8", AWQ),
    "nf4 as fp8": ("nf4", FP8),
    "int8 as fp8": ("int8", FP8),
    "compressed as gptq": ("compressed, W4A16", GPTQ),
    "nf4 as compressed": ("nf4", CT4),
    "W8 as W4": ("compressed, W8A16", CT4),
    "8 bits as 4": ("gptq, 8 bits", GPTQ),
    "gptq as nf4": ("gptq", NF4),
    "fp8 as int8": ("fp8", INT8),
    "other blocks": ("fp8", FP8 | {"weight_block_size": [64, 64]}),
    "gemm as gemv": ("awq", AWQ | {"version": "gemv"}),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_packing_declared_as_another(tmp_path: Path, case: str) -> None:
    name, block = WRONG[case]
    config, _, tensors, _ = parts(name)
    refused(tmp_path, config, block, tensors)


def overflow(stored: Stored) -> Stored:
    """Scales too large for any float, or, as codes, NaN."""
    if isinstance(stored, Codes8):
        return Codes8(np.full_like(stored.bits, 0x7F))
    assert not isinstance(stored, Bits16)
    return np.full_like(stored, np.inf)


SCALES = ("weight_scale_inv", "weight_scale", "scales", "SCB", "weight.nested_absmax")
SCALES += ("weight.absmax",)


@pytest.mark.parametrize("case", SOME)
def test_a_scale_that_overflows_is_found_while_it_is_packed(tmp_path: Path, case: str) -> None:
    config, block, tensors, mine = parts(case)
    name = next(f"{PATH}.{kind}" for kind in SCALES if f"{PATH}.{kind}" in mine)
    tensors[name] = overflow(tensors[name])
    source = write_model(tmp_path / "source", config | {"quantization_config": block}, tensors)
    with pytest.raises(CheckpointError, match="holds NaN or infinity") as caught:
        convert(source, tmp_path / "out", "8bit")
    assert PATH in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("case", SOME)
def test_scales_that_are_no_floats(tmp_path: Path, case: str) -> None:
    """Exponents in bytes (E8M0) look like numbers, and would be taken for scales."""
    config, block, tensors, mine = parts(case)
    name = next(f"{PATH}.{kind}" for kind in SCALES if f"{PATH}.{kind}" in mine)
    for kind in (np.uint8, np.int32):
        stored = tensors[name]
        shape = np.shape(stored.bits if isinstance(stored, Bits16) else stored)
        said = refused(
            tmp_path / kind.__name__, config, block, tensors | {name: np.full(shape, 127, kind)}
        )
        assert PATH in said


@pytest.mark.parametrize(("bits", "pack"), [(4, packed.words), (8, packed.int8)])
def test_asymmetric_weights_without_zeros(tmp_path: Path, bits: int, pack: Any) -> None:
    tensors, _ = foreign.model(DENSE, pack)
    block = ct("int", bits, group_size=64, symmetric=False)
    assert "zero_point" in refused(tmp_path, DENSE, block, tensors)


@pytest.mark.parametrize("case", SOME)
def test_a_file_that_is_cut_short(tmp_path: Path, case: str) -> None:
    config, block, tensors, _ = parts(case)
    source = write_model(tmp_path, config | {"quantization_config": block}, tensors)
    file = source / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(Qwen3Error, match="cut short"):
        open_source(source)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -np.nan])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_every_number_that_is_none_is_seen(tmp_path: Path, dtype: str, bad: float) -> None:
    top = {"float16": 65504.0}.get(dtype, 3e38)
    weights = random_weights(DENSE) | {f"{PATH}.weight": np.full((128, 128), top, np.float32)}
    weights[f"{PATH}.weight"][::2] *= -1
    store = {"float32": np.float32, "float16": np.float16}.get(dtype)

    def write(name: str) -> Path:
        as_stored = {n: bf16(x) if store is None else x.astype(store) for n, x in weights.items()}
        return write_model(tmp_path / name, DENSE, as_stored)

    convert(write("good"), tmp_path / "out", "bf16", dtype=getattr(mx, dtype))
    weights[f"{PATH}.weight"][5, 7] = bad
    with pytest.raises(CheckpointError, match=f"{PATH}.weight holds NaN or infinity"):
        convert(write("bad"), tmp_path / "bad-out", "bf16", dtype=getattr(mx, dtype))
