"""LoRA adapters against PEFT's own logits (tests/golden/make_adapters.py) and mlx-lm's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from qwen3_mlx.checkpoint import load_network
from qwen3_mlx.checkpoint.adapter import attach, read_adapter
from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.errors import CheckpointError, ConfigError, ModelNotFoundError, Qwen3Error
from qwen3_mlx.nn import choose_backend, fused_step
from qwen3_mlx.nn.experts import ExpertLinear
from qwen3_mlx.nn.lora import STANDS_ASIDE, LoRAExpertLinear, adapted
from qwen3_mlx.nn.moe import MoE
from qwen3_mlx.nn.transformer import Qwen3Network
from tests.checkpoints import GOLDEN, GOLDEN_BOUND, expected
from tests.oracle import assert_close, nmse

ADAPTERS = GOLDEN.parent / "adapters"
NAMES = sorted(path.name for path in ADAPTERS.iterdir())


def golden(name: str) -> tuple[str, mx.array, np.ndarray]:
    """Return the checkpoint's name, the tokens and PEFT's logits."""
    with np.load(ADAPTERS / name / "expected.npz") as file:
        return str(file["base"]), mx.array(file["tokens"]), file["logits"]


def with_adapter(base: str, adapter: Path) -> Qwen3Network:
    network, config = load_network(GOLDEN / base)
    attach(network, read_adapter(adapter, config))
    choose_backend.choose_backend(network)
    return network


@pytest.mark.parametrize("name", NAMES)
def test_logits_equal_peft(name: str) -> None:
    base, tokens, want = golden(name)
    logits = with_adapter(base, ADAPTERS / name)(tokens)
    print(f"{name}: nmse {nmse(logits, want):.1e}")
    assert_close(logits, want, bound=GOLDEN_BOUND)
    assert nmse(expected(base)[1], want) > 1e-3  # the adapter counts


@pytest.mark.parametrize("name", ["plain", "moe-parameters"])
def test_a_token_at_a_time_gives_the_same(name: str) -> None:
    base, tokens, want = golden(name)
    network = with_adapter(base, ADAPTERS / name)
    cache = network.make_cache()
    steps = [network(tokens[:, i : i + 1], cache) for i in range(tokens.shape[1])]
    assert_close(mx.concatenate(steps, axis=1), want, bound=GOLDEN_BOUND)


@pytest.mark.parametrize("base", ["dense-tied", "moe-norm"])
def test_logits_equal_mlx_lm(base: str, tmp_path: Path) -> None:
    from mlx_lm.tuner.utils import linear_to_lora_layers, load_adapters
    from mlx_lm.utils import load_model

    settings = {"rank": 3, "scale": 2.5, "dropout": 0.0}
    model, _ = load_model(GOLDEN / base)
    model.freeze()
    linear_to_lora_layers(model, 1, dict(settings))
    mx.random.seed(3)
    for module in model.modules():
        if "lora_b" in module:
            module.lora_b = 0.05 * mx.random.normal(module.lora_b.shape)
    weights = dict(tree_flatten(model.trainable_parameters()))
    assert any("switch_mlp" in name for name in weights) == base.startswith("moe")
    mx.save_safetensors(str(tmp_path / "adapters.safetensors"), weights)
    config = {"fine_tune_type": "lora", "num_layers": 1, "lora_parameters": settings}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    tokens, plain = expected(base)
    again = load_adapters(load_model(GOLDEN / base)[0], str(tmp_path))
    again.eval()
    want = again(tokens)
    assert nmse(plain, want) > 1e-4
    assert_close(with_adapter(base, tmp_path)(tokens), want, bound=GOLDEN_BOUND)


def unpacked(layer: nn.Module, like: mx.array) -> mx.array:
    biases = layer.get("biases")
    dense = mx.dequantize(layer.weight, layer.scales, biases, layer.group_size, layer.bits)
    return dense.reshape(like.shape)


@pytest.mark.parametrize("name", ["plain", "moe-attention"])
def test_packed_weights_keep_their_packing(name: str) -> None:
    """The adapter on packed weights is the adapter on what they unpack to."""
    base, tokens, _ = golden(name)
    network, config = load_network(GOLDEN / base)
    dense, _ = load_network(GOLDEN / base)
    nn.quantize(network, group_size=32, bits=8)
    for path, module in dense.named_modules():
        packed = dict(network.named_modules())[path]
        if "scales" in packed:
            module.weight = unpacked(packed, module.weight)
    for one in (network, dense):
        attach(one, read_adapter(ADAPTERS / name, config))
        choose_backend.choose_backend(one)
    assert any("scales" in module for module in network.modules())
    assert_close(network(tokens), dense(tokens), bound=1e-9)  # other orders of summation


@pytest.mark.parametrize("tokens", [3, 200])
@pytest.mark.parametrize("packed", [False, True])
def test_experts_with_an_adapter_are_experts_with_its_product(tokens: int, packed: bool) -> None:
    """Few rows go beside the base, many through what it unpacks to: both give the sum."""
    mx.random.seed(1)
    moe = MoE(64, 32, 4, 2, normalise=True)
    a, b = mx.random.normal((4, 3, 64)), 0.1 * mx.random.normal((4, 32, 3))
    x = mx.random.normal((1, tokens, 64))
    plain = moe.switch_mlp.up_proj
    if packed:
        plain = plain.to_quantized(group_size=32, bits=8)
    moe.switch_mlp.up_proj = LoRAExpertLinear(plain, a, b)
    choose_backend.choose_backend(moe)
    got = moe(x)
    summed = ExpertLinear(64, 32, 4)
    summed.weight = plain.unpacked(0, 4, mx.float32) + b @ a
    moe.switch_mlp.up_proj = summed
    choose_backend.choose_backend(moe)
    assert_close(got, moe(x), bound=1e-10)  # other orders of summation


def test_experts_of_several_ranks_have_the_largest_and_zeros_beyond_their_own(
    tmp_path: Path,
) -> None:
    """Expert 1 has a rank of 2, expert 3 one of 5, the others no update."""
    weights = {}
    for expert, rank in ((1, 2), (3, 5)):
        module = f"base_model.model.model.layers.0.mlp.experts.{expert}.up_proj"
        weights[f"{module}.lora_A.weight"] = mx.random.normal((rank, 24))
        weights[f"{module}.lora_B.weight"] = mx.random.normal((12, rank))
    mx.save_safetensors(str(tmp_path / "adapter_model.safetensors"), weights)
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "rank_pattern": {"3.up_proj": 5}}
    settings |= {"target_modules": ["up_proj"], "alpha_pattern": {"3.up_proj": 10}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    config = Qwen3Config.from_dir(GOLDEN / "moe-no-norm")
    (update,) = read_adapter(tmp_path, config).updates.values()
    a, b = update.factors()
    assert (a.shape, b.shape) == ((5, 5, 24), (5, 12, 5))
    product = b @ a
    for expert in (0, 2, 4):
        assert not mx.any(product[expert]).item()
    one, three = (list(weights.values())[n : n + 2] for n in (0, 2))
    assert_close(product[1], one[1] @ one[0], bound=1e-12)
    assert_close(product[3], 2 * three[1] @ three[0], bound=1e-12)
    assert len(update.tensors) == 4


def test_fused_kernels_stand_aside_and_say_so() -> None:
    base, _, _ = golden("plain")
    network = with_adapter(base, ADAPTERS / "plain")
    assert adapted(network)
    assert fused_step.unavailable_reason(network) == STANDS_ASIDE
    assert not adapted(load_network(GOLDEN / base)[0])
    assert STANDS_ASIDE in dict(choose_backend.reasons())["LoRA adapters"]
    moe = with_adapter("moe-no-norm", ADAPTERS / "moe-parameters")
    assert {(b.mlp.backend.few, b.mlp.backend.many) for b in moe.layers} == {((), ())}


def spoiled(tmp_path: Path, name: str = "plain", **changes: Any) -> Path:
    """Copy an adapter whose configuration says something else."""
    directory = Path(shutil.copytree(ADAPTERS / name, tmp_path / "adapter"))
    file = directory / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return directory


def refused(adapter: Path, base: str, kind: type[Qwen3Error], *words: str) -> None:
    with pytest.raises(kind) as caught:
        read_adapter(adapter, Qwen3Config.from_dir(GOLDEN / base))
    for word in words:
        assert word in str(caught.value), str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bias": "all"}, ["bias", "'all'", "'none'"]),
        ({"bias": "lora_only"}, ["bias"]),
        ({"use_dora": True}, ["use_dora", "True"]),
        ({"modules_to_save": ["lm_head"]}, ["modules_to_save"]),
        ({"peft_type": "LOHA"}, ["peft_type", "LOHA"]),
        ({"init_lora_weights": "pissa_niter_4"}, ["init_lora_weights", "pissa"]),
        ({"trainable_token_indices": [1, 2]}, ["trainable_token_indices"]),
        ({"r": 0}, ["r", "above 0"]),
        ({"r": "4"}, ["r", "'4'"]),
        ({"lora_alpha": None}, ["lora_alpha"]),
        ({"rank_pattern": {"(": 2}}, ["pattern", "regular expression"]),
        ({"rank_pattern": [1]}, ["rank_pattern"]),
        ({"target_modules": 3}, ["target_modules"]),
    ],
)
def test_settings_that_are_not_applied_are_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], words: list[str]
) -> None:
    refused(spoiled(tmp_path, **changes), "dense-tied", ConfigError, "adapter_config", *words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"r": 5}, ["lora_A", "[4, ", "[5, ", "its rank"]),
        ({"rank_pattern": {"q_proj": 3}}, ["q_proj.lora_A"]),
        ({"target_modules": ["q_proj"]}, ["not those of its config"]),
        ({"target_modules": r".*\.q_proj"}, ["not those of its config"]),
    ],
)
def test_tensors_that_contradict_the_configuration(
    tmp_path: Path, changes: dict[str, Any], words: list[str]
) -> None:
    refused(spoiled(tmp_path, **changes), "dense-tied", CheckpointError, *words)


def test_unknown_target_modules_and_missing_ones(tmp_path: Path) -> None:
    names = json.loads((ADAPTERS / "plain" / "adapter_config.json").read_text())["target_modules"]
    strange = spoiled(tmp_path / "a", target_modules=[*names, "c_attn"])
    refused(strange, "dense-tied", CheckpointError, "c_attn", "lacks")
    more = spoiled(
        tmp_path / "b", "patterns", target_modules=["q_proj", "o_proj", "down_proj", "up_proj"]
    )
    refused(more, "dense-untied", CheckpointError, "lacks tensors", "up_proj")


def test_an_adapter_of_another_model(tmp_path: Path) -> None:
    refused(ADAPTERS / "plain", "dense-untied", CheckpointError, "lora_", "another model")
    refused(ADAPTERS / "some-layers", "moe-norm", CheckpointError, "mlp.up_proj", "lacks")
    refused(ADAPTERS / "moe-parameters", "dense-untied", CheckpointError, "experts")
    refused(ADAPTERS / "rslora-head", "dense-tied", CheckpointError)


def rewrite(directory: Path, file: str, change: Any) -> None:
    weights = dict(mx.load(str(directory / file)))
    weights = change(weights)
    mx.eval(list(weights.values()))
    mx.save_safetensors(str(directory / file), weights)


def test_half_an_adapter(tmp_path: Path) -> None:
    adapter = spoiled(tmp_path)
    half = "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"
    rewrite(
        adapter, "adapter_model.safetensors", lambda w: {k: v for k, v in w.items() if k != half}
    )
    refused(adapter, "dense-tied", CheckpointError, "half", "up_proj", "lora_B")


@pytest.mark.parametrize(
    "extra", ["model.layers.0.mlp.up_proj.weight", "model.norm.weight", "lm_head.bias"]
)
def test_tensors_that_are_no_loras(tmp_path: Path, extra: str) -> None:
    adapter = spoiled(tmp_path)
    change = lambda w: w | {f"base_model.model.{extra}": mx.zeros((2, 2))}  # noqa: E731
    rewrite(adapter, "adapter_model.safetensors", change)
    refused(adapter, "dense-tied", CheckpointError, extra, "merge")


def test_a_copy_of_the_head_must_be_the_models(tmp_path: Path) -> None:
    name = "base_model.model.lm_head.base_layer.weight"
    adapter = spoiled(tmp_path, "rslora-head")
    rewrite(adapter, "adapter_model.safetensors", lambda w: w | {name: w[name] + 0.1})
    with pytest.raises(CheckpointError, match="brings its own lm_head"):
        with_adapter("dense-untied", adapter)
    rewrite(adapter, "adapter_model.safetensors", lambda w: w | {name: w[name][:-1]})
    refused(adapter, "dense-untied", CheckpointError, "resized")


def test_what_is_no_adapter(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "dense-tied", ModelNotFoundError, "no such directory")
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    refused(tmp_path, "dense-tied", ModelNotFoundError, "weights are missing")
    (tmp_path / "adapter_model.bin").write_bytes(b"x")
    refused(tmp_path, "dense-tied", ModelNotFoundError, "pickle")
    (tmp_path / "adapters.safetensors").write_bytes(b"x")
    refused(tmp_path, "dense-tied", CheckpointError, "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"fine_tune_type": "dora"}, ConfigError, ["dora", "DoRA"]),
        ({"fine_tune_type": "full"}, ConfigError, ["full"]),
        ({"lora_parameters": {"rank": 2, "alpha": 3}}, ConfigError, ["scale", "alpha"]),
        (
            {"lora_parameters": {"rank": 3, "scale": 1.0}},
            CheckpointError,
            ["lora_a", "[64, 2]", "its rank"],
        ),
        ({"num_layers": 9}, ConfigError, ["num_layers", "9"]),
        ({"num_layers": 1}, CheckpointError, ["num_layers", "layers.0"]),
        (
            {"lora_parameters": {"rank": 2, "scale": 1.0, "keys": ["self_attn.k_proj"]}},
            CheckpointError,
            ["keys"],
        ),
    ],
)
def test_mlx_lms_adapters_are_held_to_their_configuration(
    tmp_path: Path, changes: dict[str, Any], kind: type[Qwen3Error], words: list[str]
) -> None:
    path = "model.layers.0.self_attn.q_proj"
    weights = {f"{path}.lora_a": mx.ones((64, 2)), f"{path}.lora_b": mx.ones((2, 64))}
    mx.save_safetensors(str(tmp_path / "adapters.safetensors"), weights)
    sound = {
        "fine_tune_type": "lora",
        "num_layers": 2,
        "lora_parameters": {"rank": 2, "scale": 1.0, "keys": ["self_attn.q_proj"]},
    }
    (tmp_path / "adapter_config.json").write_text(json.dumps(sound))
    assert list(read_adapter(tmp_path, Qwen3Config.from_dir(GOLDEN / "dense-tied")).updates) == [
        path
    ]
    (tmp_path / "adapter_config.json").write_text(json.dumps(sound | changes))
    refused(tmp_path, "dense-tied", kind, *words)
