"""The network against transformers: tiny checkpoints made by tests/golden/make_network.py.

The goldens are made so that every parameter counts, and the mutants below show it: each is a
mistake that some implementation of Qwen3 has made, and each must be told from the truth.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

from qwen3_mlx.checkpoint import load_network
from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.nn.transformer import Qwen3Network
from tests.checkpoints import GOLDEN, GOLDEN_BOUND, expected
from tests.oracle import assert_close, nmse

NAMES = sorted(path.name for path in GOLDEN.iterdir())

MUTANT = 1e-6  # a mistake costs at least a thousand times what rounding may


def load_changed(name: str, directory: Path, **changes: Any) -> Qwen3Network:
    """Load a golden whose config.json says something else; a value of None removes the key."""
    shutil.copytree(GOLDEN / name, directory)
    config = json.loads((directory / "config.json").read_text()) | changes
    config = {key: value for key, value in config.items() if value is not None}
    (directory / "config.json").write_text(json.dumps(config))
    return load_network(directory)[0]


def test_the_goldens_cover_what_they_must() -> None:
    configs = {name: Qwen3Config.from_dir(GOLDEN / name) for name in NAMES}
    assert len(NAMES) >= 16
    every = configs.values()
    ratios = {c.num_attention_heads // c.num_key_value_heads for c in every}
    assert ratios >= {1, 2, 5, 8, 16}
    assert {c.tie_word_embeddings for c in every} == {True, False}
    assert {c.norm_topk_prob for c in every if c.is_moe} == {True, False}
    assert {c.is_moe for c in every if c.rope.scaling} == {True, False}
    assert any(c.mlp_only_layers for c in every)
    assert any(c.decoder_sparse_step == 2 for c in every)
    widths = [c.num_attention_heads * c.head_dim - c.hidden_size for c in every]
    assert min(widths) < 0 < max(widths)
    for name, config in configs.items():
        if config.rope.scaling:
            assert expected(name)[0].shape[1] > config.rope.scaling.original_max_position_embeddings
    spelt = {"rope_parameters" in (GOLDEN / n / "config.json").read_text() for n in NAMES}
    assert spelt == {True, False}


@pytest.mark.parametrize("name", NAMES)
def test_logits_equal_transformers(name: str) -> None:
    tokens, want = expected(name)
    network, config = load_network(GOLDEN / name)
    logits = network(tokens)
    assert logits.dtype == mx.float32
    assert logits.shape == (*tokens.shape, config.vocab_size)
    print(f"{name}: nmse {nmse(logits, want):.1e}")
    assert_close(logits, want, bound=GOLDEN_BOUND)


@pytest.mark.parametrize("name", ["dense-untied", "gqa-16", "moe-no-norm"])
def test_head_of_hidden_states_is_the_network(name: str) -> None:
    tokens, want = expected(name)
    network, config = load_network(GOLDEN / name)
    hidden = network.model(tokens, None)
    assert hidden.shape == (*tokens.shape, config.hidden_size)
    assert_close(network.head(hidden[:, -1]), want[:, -1], bound=GOLDEN_BOUND)


@pytest.mark.parametrize("name", ["dense-tied", "moe-norm", "yarn-moe-new"])
def test_a_row_does_not_depend_on_its_neighbour(name: str) -> None:
    tokens, want = expected(name)
    network, _ = load_network(GOLDEN / name)
    for row in range(2):
        assert_close(network(tokens[row : row + 1]), want[row : row + 1], bound=GOLDEN_BOUND)


CONFIG_MUTANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "eps ten times too large": ("dense-tied", {"rms_norm_eps": 1e-5}),
    "eps of 1e-6 for 1e-5": ("dense-untied", {"rms_norm_eps": 1e-6}),
    "theta of the first Qwen3 in a 2507": ("head-dim-narrower", {"rope_theta": 1e6}),
    "theta of Llama": ("dense-tied", {"rope_theta": 1e4}),
    "probabilities not renormalised": ("moe-norm", {"norm_topk_prob": False}),
    "probabilities renormalised": ("moe-no-norm", {"norm_topk_prob": True}),
    "one expert fewer": ("moe-no-norm", {"num_experts_per_tok": 2}),
    "YaRN dropped, dense": ("yarn-dense-old", {"rope_scaling": None}),
    "YaRN dropped, MoE": ("yarn-moe-old", {"rope_scaling": None}),
}


@pytest.mark.parametrize("mistake", CONFIG_MUTANTS)
def test_a_wrong_number_in_the_config_is_seen(mistake: str, tmp_path: Path) -> None:
    name, changes = CONFIG_MUTANTS[mistake]
    if "rope_theta" in changes and "rope_parameters" in (GOLDEN / name / "config.json").read_text():
        changes = {"rope_parameters": {"rope_type": "default", **changes}}
    tokens, want = expected(name)
    assert nmse(load_changed(name, tmp_path / "model", **changes)(tokens), want) > MUTANT


@pytest.mark.parametrize("name", ["yarn-dense-new", "yarn-dense-ramp", "yarn-moe-new"])
@pytest.mark.parametrize(
    "change",
    [{"factor": 2.0}, {"attention_factor": 1.0}, {"original_max_position_embeddings": 64}],
)
def test_a_wrong_number_of_yarn_is_seen(name: str, change: dict[str, Any], tmp_path: Path) -> None:
    rope = json.loads((GOLDEN / name / "config.json").read_text())["rope_parameters"] | change
    tokens, want = expected(name)
    network = load_changed(name, tmp_path / "model", rope_parameters=rope)
    assert nmse(network(tokens), want) > MUTANT


def without(norm: str) -> Callable[[Qwen3Network], None]:
    def change(network: Qwen3Network) -> None:
        for layer in network.layers:
            setattr(layer.self_attn, norm, nn.Identity())

    return change


def tiled_groups(network: Qwen3Network) -> None:
    """Give query head h the kv head h % K where it should have h // (H / K)."""
    for layer in network.layers:
        a = layer.self_attn
        ratio = a.heads // a.kv_heads
        order = mx.array([(i % ratio) * a.kv_heads + i // ratio for i in range(a.heads)])
        reorder_heads(a, order)


def reorder_heads(attention: Any, order: mx.array) -> None:
    a = attention
    q = a.q_proj.weight.reshape(a.heads, a.head_dim, -1)[order]
    o = a.o_proj.weight.reshape(-1, a.heads, a.head_dim)[:, order]
    a.q_proj.weight, a.o_proj.weight = q.flatten(0, 1), o.flatten(1, 2)


def interleaved_rope(network: Qwen3Network) -> None:
    """Rotate pairs (2i, 2i + 1) where it should be the pairs (i, i + D / 2)."""
    for layer in network.layers:
        a = layer.self_attn
        order = mx.concatenate([mx.arange(0, a.head_dim, 2), mx.arange(1, a.head_dim, 2)])
        for proj, norm, heads in (
            (a.q_proj, a.q_norm, a.heads),
            (a.k_proj, a.k_norm, a.kv_heads),
        ):
            weight = proj.weight.reshape(heads, a.head_dim, -1)[:, order]
            proj.weight, norm.weight = weight.flatten(0, 1), norm.weight[order]


def scale_of_derived_head_dim(network: Qwen3Network) -> None:
    for layer in network.layers:
        a = layer.self_attn
        a.scale = (a.q_proj.weight.shape[1] / a.heads) ** -0.5


def gate_and_up_swapped(network: Qwen3Network) -> None:
    for layer in network.layers:
        m = getattr(layer.mlp, "switch_mlp", layer.mlp)
        m.gate_proj, m.up_proj = m.up_proj, m.gate_proj


def experts_out_of_order(network: Qwen3Network) -> None:
    """Sort experts by name, as text: invisible below ten, so here two change places."""
    for layer in network.layers:
        for linear in layer.mlp.switch_mlp.children().values():
            weight = linear.weight
            linear.weight = mx.concatenate([weight[1:2], weight[:1], weight[2:]])


def last_layer_missing(network: Qwen3Network) -> None:
    network.model.layers = network.model.layers[:-1]


def weights_in_bfloat16(network: Qwen3Network) -> None:
    network.apply(lambda w: w.astype(mx.bfloat16).astype(mx.float32))


NETWORK_MUTANTS: dict[str, tuple[str, Callable[[Qwen3Network], None]]] = {
    "no q_norm": ("gqa-2", without("q_norm")),
    "no k_norm": ("moe-norm", without("k_norm")),
    "grouped heads tiled, 5": ("gqa-5", tiled_groups),
    "grouped heads tiled, 16": ("gqa-16", tiled_groups),
    "RoPE interleaved": ("dense-tied", interleaved_rope),
    "head_dim derived, wider": ("head-dim-wider", scale_of_derived_head_dim),
    "head_dim derived, narrower": ("head-dim-narrower", scale_of_derived_head_dim),
    "gate and up swapped": ("dense-one-layer", gate_and_up_swapped),
    "gate and up swapped in experts": ("moe-norm", gate_and_up_swapped),
    "experts out of order": ("moe-no-norm", experts_out_of_order),
    "last layer missing": ("dense-untied", last_layer_missing),
    "weights rounded to bfloat16": ("dense-untied", weights_in_bfloat16),
}


@pytest.mark.parametrize("mistake", NETWORK_MUTANTS)
def test_a_wrong_network_is_seen(mistake: str) -> None:
    name, change = NETWORK_MUTANTS[mistake]
    tokens, want = expected(name)
    network, _ = load_network(GOLDEN / name)
    change(network)
    assert nmse(network(tokens), want) > MUTANT


def test_reordering_heads_changes_nothing_else() -> None:
    """Reordering heads by an order and its inverse is nothing, so the mutant is its tiling."""
    tokens, want = expected("gqa-5")
    network, _ = load_network(GOLDEN / "gqa-5")
    for layer in network.layers:
        a = layer.self_attn
        order = mx.random.permutation(a.heads, key=mx.random.key(0))
        reorder_heads(a, order)
        reorder_heads(a, mx.argsort(order))
    assert_close(network(tokens), want, bound=GOLDEN_BOUND)
