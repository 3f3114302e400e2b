"""Every layout of names that trainers and libraries store; and one hint for each cause."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from qwen3_mlx.checkpoint import load_network
from qwen3_mlx.checkpoint.match import wrapper_prefix
from qwen3_mlx.errors import CheckpointError
from qwen3_mlx.quantize.formats import open_source
from tests.checkpoints import GOLDEN_BOUND, copy, expected, refused, store, tensors
from tests.oracle import assert_close

PREFIXES = (
    "base_model.model.",  # PEFT, when its wrapper is saved
    "_orig_mod.",  # torch.compile
    "module.",  # DataParallel, DeepSpeed
    "language_model.",  # cut out of a vision model
    "module._orig_mod.",
    "model.",  # a class that holds a causal language model as `model`
)


def check(model: Path, golden: str) -> None:
    """The network computes what the golden says, and the converter sees the same weights."""
    network, _ = load_network(model)
    tokens, want = expected(golden)
    assert_close(network(tokens), want, bound=GOLDEN_BOUND)
    dense = {
        f"{weight.path}.weight": np.concatenate(
            [np.array(part.open(mx.float32)(0, part.shape[0])) for part in weight.parts]
        ).reshape(weight.shape)
        for weight in open_source(model).weights
    }
    from mlx.utils import tree_flatten

    loaded = dict(tree_flatten(network.parameters()))
    assert dense.keys() == loaded.keys()
    assert all(np.array_equal(dense[name], np.array(loaded[name])) for name in dense)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("golden", ["dense-untied", "moe-no-norm"])
def test_a_prefix_of_all_names_is_taken_off(tmp_path: Path, golden: str, prefix: str) -> None:
    model = copy(golden, tmp_path)
    store(model, {f"{prefix}{name}": w for name, w in tensors(model).items()})
    check(model, golden)


@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod."])
@pytest.mark.parametrize("golden", ["dense-tied", "dense-untied", "moe-no-norm"])
def test_a_model_saved_without_its_first_name(tmp_path: Path, golden: str, wrapper: str) -> None:
    """AutoModel saves ``layers.0…`` where AutoModelForCausalLM saves ``model.layers.0…``."""
    model = copy(golden, tmp_path)
    bare = {name.removeprefix("model."): w for name, w in tensors(model).items()}
    store(model, {f"{wrapper}{name}": w for name, w in bare.items()})
    check(model, golden)


def test_a_prefix_of_some_names_is_no_prefix(tmp_path: Path) -> None:
    model = copy("dense-untied", tmp_path)
    some = {f"module.{n}" if "layers.0" in n else n: w for n, w in tensors(model).items()}
    store(model, some)
    refused(model, "22 tensors", "missing model.layers.0")


def test_prefixes() -> None:
    assert wrapper_prefix(["model.embed_tokens.weight", "lm_head.weight"]) == ""
    assert wrapper_prefix(["a.b.model.embed_tokens.weight", "a.b.lm_head.weight"]) == "a.b."
    assert wrapper_prefix(["a.model.embed_tokens.weight", "lm_head.weight"]) == ""
    assert wrapper_prefix(["embed_tokens.weight"]) == wrapper_prefix([]) == ""


@pytest.mark.parametrize("suffix", ["", ".weight"])
def test_the_fused_experts_of_transformers_5(tmp_path: Path, suffix: str) -> None:
    """``experts.gate_up_proj [E, 2 I, H]`` and ``experts.down_proj [E, H, I]``."""
    model = copy("moe-no-norm", tmp_path)
    found = tensors(model)
    layers = {name.partition(".experts.")[0] for name in found if ".experts." in name}
    fused = {name: w for name, w in found.items() if ".experts." not in name}
    for mlp in layers:
        gate, up, down = (
            mx.stack([found[f"{mlp}.experts.{e}.{kind}_proj.weight"] for e in range(5)])
            for kind in ("gate", "up", "down")
        )
        fused[f"{mlp}.experts.gate_up_proj{suffix}"] = mx.concatenate([gate, up], axis=1)
        fused[f"{mlp}.experts.down_proj{suffix}"] = down
    store(model, fused)
    check(model, "moe-no-norm")


@pytest.mark.parametrize("experts", [4, 6])
def test_fused_experts_of_another_number(tmp_path: Path, experts: int) -> None:
    model = copy("moe-no-norm", tmp_path)
    found = {n: w for n, w in tensors(model).items() if ".1.mlp.experts." not in n}
    found["model.layers.1.mlp.experts.gate_up_proj"] = mx.zeros((experts, 24, 24))
    found["model.layers.1.mlp.experts.down_proj"] = mx.zeros((experts, 24, 12))
    store(model, found)
    refused(model, "model.layers.1.mlp")


HINTS = {
    "score.weight": "scores or classifies",
    "classifier.dense.weight": "scores or classifies",
    "v_head.summary.weight": "scores or classifies",
    "model.layers.0.self_attn.q_proj.lora_A.weight": "LoRA",
    "visual.blocks.0.attn.qkv.weight": "Qwen3-VL",
    "model.layers.0.self_attn.k_proj.bias": "Qwen2",
    "model.layers.0.self_attn.k_proj.k_scale": "FP8 scales",
    "model.layers.0.self_attn.k_proj.weight_scale_inv": "another tool packed",
    "model.layers.0.self_attn.k_proj.weight_packed": "another tool packed",
    "model.layers.0.self_attn.k_proj.scales": "MLX packed",
    "model.layers.9.mlp.up_proj.weight": "mixes files",
}


@pytest.mark.parametrize("name", HINTS)
def test_what_a_surplus_tensor_means(tmp_path: Path, name: str) -> None:
    model = copy("dense-untied", tmp_path)
    store(model, tensors(model) | {name: mx.zeros((2, 2))})
    message = refused(model, "1 tensor differs", f"surplus {name}")
    assert HINTS[name] in message.partition("\nhint: ")[2]
    with pytest.raises(CheckpointError) as caught:
        open_source(model)
    assert str(caught.value) == message, "load and convert say the same"


def test_a_missing_head_is_an_embedding_model(tmp_path: Path) -> None:
    model = copy("dense-untied", tmp_path)
    store(model, {n: w for n, w in tensors(model).items() if n != "lm_head.weight"})
    assert "Qwen3-Embedding" in refused(model, "missing lm_head.weight")


def test_other_shapes_only_are_another_size(tmp_path: Path) -> None:
    model = copy("dense-untied", tmp_path)
    weights = tensors(model)
    store(model, weights | {"model.norm.weight": mx.zeros(63)})
    assert "another size" in refused(model, "[63]", "[24]")


def test_other_types_only_are_no_other_size(tmp_path: Path) -> None:
    """The shapes are right: to look for another config.json helps nobody."""
    model = copy("dense-untied", tmp_path)
    weights = tensors(model)
    name = "model.layers.0.mlp.up_proj.weight"
    store(model, weights | {name: weights[name].astype(mx.int32)})
    message = refused(model, "has dtype I32")
    assert "another size" not in message and "save the model in bfloat16" in message
    with pytest.raises(CheckpointError, match="save the model in bfloat16"):
        open_source(model)


@pytest.mark.parametrize(("body", "named"), [(True, "any"), (False, "Qwen3-Embedding-0.6B")])
def test_an_embedder_has_no_head(tmp_path: Path, body: bool, named: str) -> None:
    """It is one by its tensors' names, those of a body alone, or by its folder's."""
    model = copy("dense-untied", tmp_path).rename(tmp_path / named)
    kept = {n: w for n, w in tensors(model).items() if n != "lm_head.weight"}
    store(model, {n.removeprefix("model.") if body else n: w for n, w in kept.items()})
    network, config = load_network(model)
    assert not config.head and "lm_head" not in network
    store(model, tensors(model) | {"lm_head.weight": mx.zeros((97, 24))})
    assert load_network(model)[1].head
