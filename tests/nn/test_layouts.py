"""Checkpoints in mlx-lm's layout load as well: stacked experts, and weights packed by MLX.

A packed network is held to the float network whose weights are the packed ones unpacked, so both
compute the same sums in float32 and the comparer's own bound applies.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

from qwen3_mlx.checkpoint import load_network
from qwen3_mlx.errors import CheckpointError
from tests.checkpoints import GOLDEN, GOLDEN_BOUND, expected
from tests.oracle import assert_close, nmse

EXPERT = re.compile(r"(.*\.mlp)\.experts\.(\d+)\.(\w+_proj)\.weight")

Weights = dict[str, mx.array]
Spec = dict[str, Any] | bool


def stacked(name: str) -> Weights:
    """Return a golden's weights under mlx-lm's names, experts as one [E, out, in] each."""
    out: Weights = {}
    experts: dict[str, dict[int, mx.array]] = {}
    for file in GOLDEN.joinpath(name).glob("*.safetensors"):
        for key, weight in mx.load(str(file)).items():
            if match := EXPERT.fullmatch(key):
                block, number, proj = match.groups()
                experts.setdefault(f"{block}.switch_mlp.{proj}.weight", {})[int(number)] = weight
            else:
                out[key] = weight
    for key, parts in experts.items():
        out[key] = mx.stack([parts[i] for i in range(len(parts))])
    return out


def write(directory: Path, name: str, weights: Weights, **config: Any) -> Path:
    """Write a model directory: the golden's config.json with changes, and `weights`."""
    directory.mkdir()
    values = json.loads((GOLDEN / name / "config.json").read_text()) | config
    (directory / "config.json").write_text(json.dumps(values))
    mx.save_safetensors(str(directory / "model.safetensors"), weights, metadata={"format": "mlx"})
    return directory


def pack(weights: Weights, default: dict[str, Any], overrides: Mapping[str, Spec]) -> Weights:
    """Quantize every matrix as mlx-lm's convert does, each by its override or the default."""
    out: Weights = {}
    for key, weight in weights.items():
        path = key.removesuffix(".weight")
        spec = overrides.get(path, default)
        if weight.ndim < 2 or spec is False:
            out[key] = weight
            continue
        assert isinstance(spec, dict)
        parts = mx.quantize(weight, **spec)
        kinds = ("weight", "scales", "biases")[: len(parts)]
        out |= {f"{path}.{kind}": part for kind, part in zip(kinds, parts, strict=True)}
    return out


def unpack(packed: Weights, default: dict[str, Any], overrides: Mapping[str, Spec]) -> Weights:
    """Return the float weights that `packed` stands for."""
    out: Weights = {}
    for key, weight in packed.items():
        path, _, kind = key.rpartition(".")
        if kind in ("scales", "biases"):
            continue
        if f"{path}.scales" not in packed:
            out[key] = weight
            continue
        spec = overrides.get(path, default)
        assert isinstance(spec, dict)
        out[key] = mx.dequantize(
            weight, packed[f"{path}.scales"], packed.get(f"{path}.biases"), **spec
        )
    return out


@pytest.mark.parametrize("name", ["moe-norm", "moe-sparse-step-2", "yarn-moe-new", "dense-tied"])
def test_stacked_experts_load_like_single_ones(name: str, tmp_path: Path) -> None:
    tokens, want = expected(name)
    network, _ = load_network(write(tmp_path / "model", name, stacked(name)))
    assert_close(network(tokens), want, bound=GOLDEN_BOUND)
    assert_close(network(tokens), load_network(GOLDEN / name)[0](tokens))


G64 = {"group_size": 64, "bits": 4}
G32 = {"group_size": 32, "bits": 4}
ROUTER = {"group_size": 32, "bits": 8}
PACKINGS: dict[str, tuple[str, dict[str, Any], dict[str, Spec]]] = {
    "dense, g64": ("dense-tied", G64, {}),
    "dense, g32": ("dense-tied", G32, {}),
    "dense, embedding at 8 bits": ("dense-tied", G64, {"model.embed_tokens": {**G64, "bits": 8}}),
    "dense, embedding and one layer left": (
        "dense-tied",
        G64,
        {"model.embed_tokens": False, "model.layers.1.mlp.down_proj": False},
    ),
    "dense, three bit widths": (
        "dense-tied",
        {"group_size": 64, "bits": 3},
        {
            "model.layers.0.self_attn.v_proj": {"group_size": 32, "bits": 6},
            "model.layers.1.mlp.down_proj": {"group_size": 32, "bits": 5},
        },
    ),
    "moe, g32": ("moe-norm", G32, {}),
    "moe, routers at 8 bits": (
        "moe-norm",
        G32,
        {f"model.layers.{i}.mlp.gate": ROUTER for i in range(2)},
    ),
    "moe, routers and one expert matrix left": (
        "moe-norm",
        G32,
        {
            "model.layers.0.mlp.gate": False,
            "model.layers.1.mlp.gate": False,
            "model.layers.0.mlp.switch_mlp.up_proj": False,
            "lm_head": {"group_size": 32, "bits": 6},
        },
    ),
}


@pytest.mark.parametrize("both_keys", [False, True], ids=["quantization", "and its copy"])
@pytest.mark.parametrize("packing", PACKINGS)
def test_packed_weights_equal_unpacked_ones(packing: str, both_keys: bool, tmp_path: Path) -> None:
    name, default, overrides = PACKINGS[packing]
    tokens, original = expected(name)
    packed = pack(stacked(name), default, overrides)
    config: dict[str, Any] = {"quantization": {**default, **overrides}}
    if both_keys:  # mlx-lm writes the block twice
        config["quantization_config"] = config["quantization"]
    network, read = load_network(write(tmp_path / "packed", name, packed, **config))
    plain = unpack(packed, default, overrides)
    want = load_network(write(tmp_path / "plain", name, plain))[0](tokens)
    got = network(tokens)
    assert read.quantization is not None
    assert_close(got, want)
    assert nmse(got, original) > 1e-4  # four bits are not nothing: the packed weights were used
    kept = {key for key in packed if key.endswith("scales")}
    paths = {f"{path}.scales" for path, m in network.named_modules() if hasattr(m, "scales")}
    assert paths == kept  # packed modules stay packed


def test_a_packed_network_works_with_its_cache(tmp_path: Path) -> None:
    name, default, overrides = PACKINGS["moe, routers at 8 bits"]
    tokens, _ = expected(name)
    packed = pack(stacked(name), default, overrides)
    directory = write(tmp_path / "model", name, packed, quantization={**default, **overrides})
    network, _ = load_network(directory)
    cache = network.make_cache()
    parts = [network(tokens[:, a:b], cache) for a, b in ((0, 7), (7, 8), (8, 20))]
    assert_close(mx.concatenate(parts, axis=1), network(tokens))


def test_an_ignored_override_would_be_seen(tmp_path: Path) -> None:
    """The teeth of the bound: the same checkpoint unpacked with one override ignored."""
    name, default, overrides = PACKINGS["dense, embedding at 8 bits"]
    tokens, _ = expected(name)
    fine = unpack(pack(stacked(name), default, overrides), default, overrides)
    coarse = unpack(pack(stacked(name), default, {}), default, {})
    a = load_network(write(tmp_path / "fine", name, fine))[0](tokens)
    b = load_network(write(tmp_path / "coarse", name, coarse))[0](tokens)
    assert nmse(b, a) > 1e-5


@pytest.mark.parametrize("bits", [2, 8])
def test_a_packing_the_config_does_not_describe_is_refused(bits: int, tmp_path: Path) -> None:
    packed = pack(stacked("dense-tied"), G64, {})
    config = {"quantization": {"group_size": 64, "bits": bits}}
    with pytest.raises(CheckpointError, match="shape"):
        load_network(write(tmp_path / "model", "dense-tied", packed, **config))


def test_packed_weights_without_a_quantization_in_the_config(tmp_path: Path) -> None:
    packed = pack(stacked("dense-tied"), G64, {})
    with pytest.raises(CheckpointError, match="embed_tokens"):
        load_network(write(tmp_path / "model", "dense-tied", packed))


@pytest.mark.parametrize("lost", ["scales", "biases"])
def test_scales_or_biases_lost(lost: str, tmp_path: Path) -> None:
    packed = pack(stacked("dense-tied"), G64, {})
    del packed[f"model.layers.1.self_attn.q_proj.{lost}"]
    with pytest.raises(CheckpointError, match=r"layers\.1\.self_attn\.q_proj"):
        load_network(write(tmp_path / "model", "dense-tied", packed, quantization=G64))


def test_loading_does_not_need_the_scales_in_the_networks_dtype(tmp_path: Path) -> None:
    """mlx-community stores scales in bfloat16; the network computes in its own dtype."""
    packed = pack(stacked("dense-tied"), G64, {})
    half = {k: w if w.dtype == mx.uint32 else w.astype(mx.bfloat16) for k, w in packed.items()}
    same = {k: w if w.dtype == mx.uint32 else w.astype(mx.float32) for k, w in half.items()}
    tokens, _ = expected("dense-tied")
    a, _ = load_network(write(tmp_path / "half", "dense-tied", half, quantization=G64))
    b, _ = load_network(write(tmp_path / "same", "dense-tied", same, quantization=G64))
    if a.model.norm.weight.dtype != mx.float32:
        pytest.skip("this backend computes in the stored bfloat16, not in float32")
    assert_close(a(tokens), b(tokens))
    assert isinstance(a.model.embed_tokens, nn.QuantizedEmbedding)
