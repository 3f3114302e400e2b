"""Checkpoints in the shape of a release, packed as other tools do: random codes, plain scales."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.convert import tensors
from qwen3_mlx.checkpoint.headers import header_bytes
from tests.gguf import files as gguf
from tests.gguf.blocks import SIZES as GGUF_BLOCKS
from tests.quantize.packed import NF4

CODES = {"BF16": 2, "F16": 2, "F32": 4, "I32": 4, "U32": 4, "I64": 8, "U8": 1, "I8": 1}
CODES |= {"F8_E4M3": 1}
TYPES = {"F16": np.float16, "F32": np.float32, "I64": np.int64}
Fill = float | str | bytes
"""A number for all places, `bits`, `finite`, or the tensor's bytes."""
Entry = tuple[str, str, tuple[int, ...], Fill]
"""A suffix, its type, its shape, its content."""
Pack = Callable[[int, int], list[Entry]]
"""The tensors that a matrix of so many rows and columns is stored in."""


def plain(code: str, rows: int, columns: int) -> list[Entry]:
    return [("weight", code, (rows, columns), "finite")]


def fp8(high: int, wide: int, rows: int, columns: int) -> list[Entry]:
    grid = -(-rows // high), -(-columns // wide)
    return [
        ("weight", "F8_E4M3", (rows, columns), "finite"),
        ("weight_scale_inv", "F32", grid, 1e-4),
    ]


def gptq(bits: int, order: bool, rows: int, columns: int) -> list[Entry]:
    groups = columns // 128
    found: list[Entry] = [
        ("qweight", "I32", (columns * bits // 32, rows), "bits"),
        ("qzeros", "I32", (groups, rows * bits // 32), "bits"),
        ("scales", "F16", (groups, rows), 0.02 / 2**bits),
    ]
    if order:
        index = np.random.default_rng(0).permutation(columns) // 128
        found.append(("g_idx", "I32", (columns,), index.astype(np.int32).tobytes()))
    return found


def awq(version: str, rows: int, columns: int) -> list[Entry]:
    groups = columns // 128
    if version == "gemm":
        shapes = (columns, rows // 8), (groups, rows // 8), (groups, rows)
    else:
        words = -(-groups // 8)
        shapes = (rows, columns // 8), (rows, words), (rows, 8 * words)
    codes: list[Entry] = [
        (name, "I32", shape, "bits")
        for name, shape in zip(("qweight", "qzeros"), shapes[:2], strict=True)
    ]
    return [*codes, ("scales", "F16", shapes[2], 0.002)]


def words(bits: int, zeros: bool, rows: int, columns: int) -> list[Entry]:
    groups, shape = columns // 128, np.array([rows, columns], np.int64).tobytes()
    return [
        ("weight_packed", "I32", (rows, columns * bits // 32), "bits"),
        ("weight_scale", "BF16", (rows, groups), 0.02 / 2**bits),
        ("weight_shape", "I64", (2,), shape),
        *([("weight_zero_point", "I32", (rows * bits // 32, groups), "bits")] if zeros else []),
    ]


def int8(name: str, rows: int, columns: int) -> list[Entry]:
    shape, scale = ((rows,), 0.05) if name == "SCB" else ((rows, 1), 0.0004)
    return [("weight", "I8", (rows, columns), "bits"), (name, "F32", shape, scale)]


def nvfp4(rows: int, columns: int) -> list[Entry]:
    return [
        ("weight_packed", "U8", (rows, columns // 2), "bits"),
        ("weight_scale", "F8_E4M3", (rows, columns // 16), "finite"),
        ("weight_global_scale", "F32", (1,), 5000.0),
    ]


def nf4(double: bool, rows: int, columns: int) -> list[Entry]:
    blocks = rows * columns // 64
    said = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [rows, columns]}
    found: list[Entry] = [
        ("weight", "U8", (rows * columns // 2, 1), "bits"),
        ("weight.quant_map", "F32", (16,), NF4.tobytes()),
    ]
    if double:
        table = np.linspace(-1, 1, 256, dtype=np.float32)
        said |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.05}
        found += [
            ("weight.absmax", "U8", (blocks,), "bits"),
            ("weight.nested_absmax", "F32", (-(-blocks // 256),), 0.02),
            ("weight.nested_quant_map", "F32", (256,), table.tobytes()),
        ]
    else:
        found.append(("weight.absmax", "F32", (blocks,), 0.05))
    state = json.dumps(said).encode()
    return [*found, ("weight.quant_state.bitsandbytes__nf4", "U8", (len(state),), state)]


def mlx(bits: int, rows: int, columns: int) -> list[Entry]:
    groups = (rows, columns // 64)
    return [
        ("weight", "U32", (rows, columns * bits // 32), "bits"),
        ("scales", "BF16", groups, 0.05 / 2**bits),
        ("biases", "BF16", groups, -0.025),
    ]


def ct(kind: str, bits: int, **others: Any) -> dict[str, Any]:
    weights = {"type": kind, "num_bits": bits, "strategy": "group"} | others
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    return {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": groups}}


def said(**block: Any) -> dict[str, Any]:
    return {"quantization_config": block}


GPTQ = {"quant_method": "gptq", "group_size": 128}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}
BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
PACKINGS: dict[str, tuple[dict[str, Any], Pack]] = {
    "bf16": ({}, partial(plain, "BF16")),
    "fp16": ({}, partial(plain, "F16")),
    "fp32": ({}, partial(plain, "F32")),
    "fp8 blocks": (
        said(quant_method="fp8", weight_block_size=[128, 128]),
        partial(fp8, 128, 128),
    ),
    "fp8 rows": (said(quant_method="fp8"), partial(fp8, 1, 10**9)),
    "awq": (said(**AWQ), partial(awq, "gemm")),
    "awq gemv": (said(**AWQ, version="gemv"), partial(awq, "gemv")),
    "gptq": (said(**GPTQ, bits=4), partial(gptq, 4, False)),
    "gptq ordered": (said(**GPTQ, bits=4, desc_act=True), partial(gptq, 4, True)),
    "gptq 8 bits": (said(**GPTQ, bits=8), partial(gptq, 8, False)),
    "gptq 3 bits": (said(**GPTQ, bits=3), partial(gptq, 3, False)),
    "W4A16": (ct("int", 4), partial(words, 4, False)),
    "W4A16 asymmetric": (ct("int", 4), partial(words, 4, True)),
    "W8A16": (ct("int", 8), partial(words, 8, False)),
    "W8A8": (ct("int", 8), partial(int8, "weight_scale")),
    "NVFP4": (ct("float", 4, group_size=16), nvfp4),
    "nf4": (said(**BNB), partial(nf4, False)),
    "nf4 double": (said(**BNB), partial(nf4, True)),
    "int8": (said(quant_method="bitsandbytes", load_in_8bit=True), partial(int8, "SCB")),
    "mlx 4 bits": ({"quantization": {"bits": 4, "group_size": 64}}, partial(mlx, 4)),
    "mlx 6 bits": ({"quantization": {"bits": 6, "group_size": 64}}, partial(mlx, 6)),
}
GGUF = {"gguf Q8_0": gguf.always("Q8_0"), "gguf Q4_K_M": gguf.k_m, "gguf F16": gguf.always("F16")}


def content(code: str, shape: tuple[int, ...], fill: Fill, rng: np.random.Generator) -> bytes:
    """The bytes of one tensor; `finite` codes are ordinary numbers around 0.05, or any FP8."""
    count = int(np.prod(shape))
    if isinstance(fill, bytes):
        return fill
    if fill == "bits":
        return rng.bytes(count * CODES[code])
    if fill == "finite":
        if code == "F32":
            return rng.normal(0, 0.02, count).astype(np.float32).tobytes()
        width = np.uint8 if code == "F8_E4M3" else np.uint16
        bits: Any = np.frombuffer(rng.bytes(count * CODES[code]), width)
        keep, add = {"F8_E4M3": (0xF7, 0), "BF16": (0x80FF, 0x3C00), "F16": (0x83FF, 0x2400)}[code]
        return ((bits & width(keep)) | width(add)).tobytes()
    if code == "BF16":
        return (np.full(count, fill, np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()
    return np.full(count, fill, TYPES[code]).tobytes()


def entries(values: dict[str, Any], packing: str) -> Iterator[Entry]:
    """All tensors of a source: the projections are packed, MLX's packings the embedding too."""
    floats = {"fp16": "F16", "fp32": "F32"}.get(packing, "BF16")
    for name, shape in tensors(values):
        path = name.removesuffix(".weight")
        packed = path.endswith("_proj") or (packing.startswith("mlx") and "norm" not in path)
        pack = PACKINGS[packing][1] if packed else partial(plain, floats)
        if len(shape) == 1:
            yield name, floats, shape, "finite"
            continue
        for suffix, code, stored, fill in pack(*shape):
            yield f"{path}.{suffix}", code, stored, fill


def make_safetensors(folder: Path, values: dict[str, Any], packing: str) -> Path:
    """A source in `packing`."""
    folder.mkdir(parents=True)
    said = PACKINGS[packing][0] | {"torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(values | said))
    found = list(entries(values, packing))
    rng = np.random.default_rng(0)
    with (folder / "model.safetensors").open("wb") as stream:
        sizes = ((n, c, s, CODES[c] * int(np.prod(s))) for n, c, s, _ in found)
        stream.write(header_bytes(sizes, {}))
        for _, code, shape, fill in found:
            stream.write(content(code, shape, fill, rng))
    return folder


def make_gguf(folder: Path, values: dict[str, Any], packing: str) -> Path:
    """A source in a GGUF file."""
    rng, choose = np.random.default_rng(0), GGUF[packing]
    model = gguf.Gguf(gguf.metadata(values, gguf.TEMPLATE), {})
    for name, shape in tensors(values):
        theirs = gguf.llama_name(name)
        kind = "F32" if len(shape) == 1 else choose(theirs)
        if kind in GGUF_BLOCKS:
            like = np.broadcast_to(np.float32(0), shape)  # its blocks are random
        else:
            like = rng.standard_normal(shape, np.float32) * 0.02
        model.tensors[theirs] = gguf.store(kind, like, rng)[0]
    folder.mkdir(parents=True)
    return gguf.write(model, folder / "model.gguf")


def make(folder: Path, values: dict[str, Any], packing: str) -> Path:
    """A source in `packing`; returns its folder or file."""
    return (make_gguf if packing in GGUF else make_safetensors)(folder, values, packing)
