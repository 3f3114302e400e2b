"""Training with experts: the forward is the network's, its gradients are right, load is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map, tree_unflatten

from qwen3_mlx.nn import moe as network_moe
from qwen3_mlx.nn.moe import MoE, route
from qwen3_mlx.nn.transformer import Qwen3Network
from tests.oracle import assert_close, nmse
from tests.tiny import network as tiny_network
from training import check
from training.card import active_parameters, card
from training.experts import LoadMeter, Routing, all_experts, load_balance, run_blocks
from training.recipe import DEMO, Recipe
from training.step import Trainer, flat, initialise, masked_loss
from training.tokenizer import ENTRIES

ROOT = Path(__file__).parents[2]
MOE = {
    "model_type": "qwen3_moe",
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 16,
    "norm_topk_prob": True,
}
TOKENS = mx.array(np.random.default_rng(5).integers(0, 24, (3, 41)))
MASK = mx.array(np.random.default_rng(6).integers(0, 2, (3, 41)))


def moe_network(**changes: Any) -> Qwen3Network:
    return tiny_network(7, **(MOE | changes))[0]


def differentiable_route(logits: mx.array, top_k: int, normalise: bool) -> Any:
    """`route` with its indices kept from the gradient, which has none for them."""
    experts, _ = route(mx.stop_gradient(logits), top_k, normalise)
    weights = mx.take_along_axis(mx.softmax(logits, axis=-1, precise=True), experts, axis=-1)
    return experts, weights / weights.sum(axis=-1, keepdims=True) if normalise else weights


def gathered_loss(network: Qwen3Network) -> mx.array:
    """`masked_loss` by the network's own forward, in which tokens are gathered by expert."""
    logits = network(TOKENS[:, :-1])
    target = mx.take_along_axis(logits, TOKENS[:, 1:, None], axis=-1).squeeze(-1)
    losses = (mx.logsumexp(logits, axis=-1) - target) * MASK[:, 1:]
    return losses.sum() / MASK[:, 1:].sum()


def dense_loss(network: Qwen3Network) -> mx.array:
    embedding = network.model.embed_tokens.weight
    return masked_loss(network, embedding, TOKENS, MASK, mx.float32, [])


def gradients(network: Qwen3Network, loss: Any) -> dict[str, mx.array]:
    def of(parameters: Any) -> mx.array:
        network.update(parameters)
        return loss(network)

    before = network.parameters()
    found = mx.grad(of)(tree_map(lambda p: p, before))
    network.update(before)
    return dict(tree_flatten(found))


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("length", [2, 40])  # 6 pairs a row: gathered in order; 120: sorted
def test_all_experts_give_what_the_network_gives(length: int, normalise: bool) -> None:
    network, seen = moe_network(norm_topk_prob=normalise), list[Routing]()
    tokens = TOKENS[:1, :length]
    hidden = run_blocks(network.layers, network.model.embed_tokens(tokens), seen)
    assert_close(network.model.norm(hidden), network.model(tokens))
    assert [routing.chosen.shape for routing in seen] == [(length, 8)] * 2
    for routing in seen:
        assert routing.chosen.sum(axis=1).tolist() == [3] * length


def test_the_choice_is_the_networks() -> None:
    moe = MoE(16, 4, 16, 4, True)
    x = mx.random.normal((2, 50, 16), key=mx.random.key(1))
    experts, _ = route(moe.gate(x.reshape(-1, 16)), 4, True)
    want = (experts[..., None] == mx.arange(16)).any(axis=1)
    assert all_experts(moe, x)[1].chosen.tolist() == want.tolist()


def test_equal_experts_are_taken_in_order() -> None:
    moe = MoE(16, 4, 16, 4, True)
    moe.gate.weight = mx.zeros((16, 16))
    chosen = all_experts(moe, mx.ones((1, 1, 16)))[1].chosen
    assert chosen.tolist() == [[True] * 4 + [False] * 12]


def test_bfloat16_is_as_near_as_rounding_allows() -> None:
    moe = MoE(64, 32, 16, 4, True)
    x = mx.random.normal((1, 64, 64), key=mx.random.key(2)).astype(mx.bfloat16)
    moe.set_dtype(mx.bfloat16)
    got = all_experts(moe, x)[0]
    moe.set_dtype(mx.float32)  # the same weights; the CPU gathers in float32 only
    want = all_experts(moe, x.astype(mx.float32))
    # Several roundings, and where two experts' weights round to one number, another expert.
    assert got.dtype == mx.bfloat16 and nmse(got, want[0]) < 1e-3


def test_a_dense_network_is_run_as_it_is() -> None:
    network, seen = tiny_network(7)[0], list[Routing]()
    hidden = run_blocks(network.layers, network.model.embed_tokens(TOKENS), seen)
    assert_close(network.model.norm(hidden), network.model(TOKENS))
    assert not seen and load_balance(seen).item() == 0


@pytest.mark.parametrize("sort_from", [64, 10_000])  # by expert, and as they come
def test_gradients_are_those_of_the_gathered_forward(
    monkeypatch: pytest.MonkeyPatch, sort_from: int
) -> None:
    monkeypatch.setattr(network_moe, "route", differentiable_route)
    monkeypatch.setattr(network_moe, "SORT_FROM", sort_from)
    network = moe_network()
    got, want = gradients(network, dense_loss), gradients(network, gathered_loss)
    assert any("mlp.gate.weight" in name for name in got)
    for name, gradient in want.items():
        # Both are sums of float32 products in another order; a wrong term would show at 1e-3.
        assert_close(got[name], gradient, bound=1e-9)


def forward64(moe: MoE, x: np.ndarray, gate: np.ndarray) -> np.ndarray:
    """A Mixture of Experts in NumPy and float64, with the router's matrix in place of its own."""
    experts = moe.switch_mlp
    names = ("gate_proj", "up_proj", "down_proj")
    g, u, d = (np.array(experts[name].weight, np.float64) for name in names)
    logits = x @ gate.T
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    out = np.zeros_like(x)
    for row, token in enumerate(x):
        chosen = np.argsort(-weights[row])[: moe.top_k]
        for e in chosen:
            a = g[e] @ token
            share = weights[row, e] / weights[row, chosen].sum()
            out[row] += share * (d[e] @ (a / (1 + np.exp(-a)) * (u[e] @ token)))
    return out


def test_the_router_learns_through_its_weights() -> None:
    """The gradient of the router, against central differences in float64."""
    mx.random.seed(3)
    moe = MoE(8, 4, 5, 2, True)
    moe.gate.weight = mx.random.normal((5, 8))
    x, pull = mx.random.normal((1, 6, 8)), mx.random.normal((1, 6, 8))

    def loss(gate: mx.array) -> mx.array:
        moe.gate.weight = gate
        return (all_experts(moe, x)[0] * pull).sum()

    gate = moe.gate.weight
    got = np.array(mx.grad(loss)(gate))
    moe.gate.weight = gate
    x64, pull64 = np.array(x[0], np.float64), np.array(pull[0], np.float64)
    gate64, step, want = np.array(gate, np.float64), 1e-6, np.zeros((5, 8))
    for at in np.ndindex(5, 8):
        shift = np.zeros((5, 8))
        shift[at] = step
        above, below = (forward64(moe, x64, gate64 + s * shift) for s in (1, -1))
        want[at] = ((above - below) * pull64).sum() / (2 * step)
    assert np.abs(want).max() > 1e-3
    assert nmse(got, want) <= 1e-9  # float32 against differences whose own error is 1e-9


def routing(logits: mx.array, top_k: int) -> Routing:
    order = mx.argsort(-logits, axis=-1)[:, :top_k]
    chosen = (order[..., None] == mx.arange(logits.shape[-1])).any(axis=1)
    return Routing(mx.softmax(logits, axis=-1), chosen)


def test_the_load_balancing_loss() -> None:
    # Four tokens, four experts, top-2: fractions 1, 1/2, 1/4, 1/4.
    logits = mx.log(mx.array([[4, 3, 2, 1.0], [4, 3, 1, 2], [4, 1, 3, 2], [4, 1, 2, 3]]))
    fraction, probability = [1, 0.5, 0.25, 0.25], [0.4, 0.2, 0.2, 0.2]
    want = 4 * sum(f * p for f, p in zip(fraction, probability, strict=True))
    assert load_balance([routing(logits, 2)]).item() == pytest.approx(want)
    assert load_balance([routing(logits, 2)] * 3).item() == pytest.approx(3 * want)


def test_an_even_load_costs_top_k_and_a_collapse_more() -> None:
    even = mx.concatenate([mx.eye(8)[mx.arange(i, i + 8) % 8] for i in range(8)]) * 1e-3
    assert load_balance([routing(even, 3)]).item() == pytest.approx(3, rel=1e-3)
    collapsed = mx.broadcast_to(mx.array([9.0, 8, 7, 0, 0, 0, 0, 0]), (16, 8))
    assert load_balance([routing(collapsed, 3)]).item() == pytest.approx(8, rel=1e-2)


def test_balance_is_over_the_batch_not_the_sequence() -> None:
    """Two sequences that use one expert each balance each other."""
    first, second = mx.array([[9.0, 0.0]] * 4), mx.array([[0.0, 9.0]] * 4)
    apart = [load_balance([routing(x, 1)]).item() for x in (first, second)]
    assert apart == pytest.approx([2, 2], rel=1e-3)
    assert load_balance([routing(mx.concatenate([first, second]), 1)]).item() == pytest.approx(1)


def test_the_loss_spreads_the_load() -> None:
    """Steps that are told to balance alone bring a collapsed router back."""
    recipe = Recipe.named("tiny-moe")
    network = Qwen3Network(recipe.network_config(24))
    parameters = flat(initialise(network, 1))
    name = "model.layers.1.mlp.gate.weight"
    parameters[name] = parameters[name] * mx.array([4.0] * 4 + [1.0] * 12)[:, None]
    trainer = Trainer(
        network, recipe.optimizer, tree_unflatten(list(parameters.items())), mx.float32, 1.0
    )
    nothing = mx.zeros(MASK.shape, mx.int32)
    balances = [trainer.step(TOKENS, nothing, 3e-3)[2].item() for _ in range(30)]
    # Two layers, top-4: 8 is even.
    assert balances[0] > 11 and max(balances[-5:]) < 9, balances[::5]


def test_the_coefficient_reaches_the_gradient_and_not_the_reported_loss() -> None:
    recipe = Recipe.named("tiny-moe")
    assert recipe.balance == 0.001 and Recipe.named("demo").balance == 0
    results = []
    for balance in (0.0, 1.0):
        network = Qwen3Network(recipe.network_config(24))
        start = initialise(network, 1)
        network.update(start)
        want = dense_loss(network).item()
        trainer = Trainer(network, recipe.optimizer, start, mx.float32, balance)
        results.append([x.item() for x in trainer.step(TOKENS, MASK, 0.0)])
    (loss, norm, even), (same, other, also) = results
    assert loss == same == pytest.approx(want)
    assert even == also >= 8 and norm != other


def by_hand(network: Qwen3Network, sequences: list[list[int]]) -> list[list[int]]:
    """Visits of each layer's experts, a sequence at a time through the network's own blocks."""
    counts = np.zeros((len(network.layers), 8), int)
    for ids in sequences:
        x = network.model.embed_tokens(mx.array([ids]))
        for index, layer in enumerate(network.layers):
            h = layer.post_attention_layernorm(x + layer.self_attn(layer.input_layernorm(x)))
            best = np.argsort(-np.array(layer.mlp.gate(h))[0], axis=-1)[:, :3]
            counts[index] += np.bincount(best.flatten(), minlength=8)
            x = layer(x)
    return counts.tolist()


def test_load_is_counted_without_the_padding() -> None:
    network = moe_network()
    rng = np.random.default_rng(1)
    sequences = [rng.integers(0, 24, n).tolist() for n in (5, 70, 3, 64, 1)]
    meter = LoadMeter(network)
    meter.add(sequences[:2])
    meter.add(sequences[2:])
    report = meter.report()
    assert report is not None and report["tokens"] == 143
    want = [[100 * n / (3 * 143) for n in layer] for layer in by_hand(network, sequences)]
    assert report["share"] == [pytest.approx(layer, abs=6e-4) for layer in want]
    assert report["max_over_mean"] == pytest.approx([max(x) * 8 / 100 for x in want], abs=1e-3)


def test_an_expert_that_nobody_visits_is_dead() -> None:
    network = moe_network()
    network.layers[1].mlp.gate.weight = mx.zeros((8, 32))  # all alike: the first three
    meter = LoadMeter(network)
    meter.add([TOKENS[0].tolist()])
    report = meter.report()
    assert report is not None and report["dead"][1] == 5  # type: ignore[index]
    assert report["share"][1] == pytest.approx([33.333] * 3 + [0] * 5)  # type: ignore[index]
    assert report["max_over_mean"][1] == pytest.approx(8 / 3, abs=1e-3)  # type: ignore[index]


def test_dense_networks_have_no_load() -> None:
    meter = LoadMeter(tiny_network(7)[0])
    meter.add([[1, 2, 3]])
    assert meter.report() is None and meter.tokens == 0


def test_the_recipe_fits_the_bundle_and_the_kernels() -> None:
    recipe = Recipe.named("demo-moe")
    config = recipe.network_config(ENTRIES)
    assert config.is_moe and all(config.is_moe_layer(i) for i in range(config.num_hidden_layers))
    assert 16 <= config.num_experts <= 32 and config.num_experts_per_tok == 4
    assert config.norm_topk_prob
    assert config.hidden_size % 64 == 0 and config.moe_intermediate_size % 64 == 0
    weights = 2 * sum(value.size for value in flat(Qwen3Network(config).parameters()).values())
    others = [path for path in DEMO.iterdir() if path.suffix != ".safetensors"]
    assert weights + 10_000 + sum(path.stat().st_size for path in others) <= 12_000_000
    assert recipe.persona.name == "demo-moe"


LOAD = {
    "tokens": 1000,
    "share": [[50.0, 30.0, 19.99, 0.01], [25.0] * 4],
    "max_over_mean": [2.0, 1.0],
    "dead": [1, 0],
}


def test_the_card_prints_the_load() -> None:
    scores = json.loads((ROOT / "docs" / "demo-scores.json").read_text("utf-8"))
    text = card(scores | {"load": LOAD, "model_type": "qwen3_moe"}, Recipe.named("demo-moe"), None)
    assert "| 0 | 50.0 | 30.0 | 20.0 | 0.0 | 2.00 | 1 |" in text
    assert "| 1 | 25.0 | 25.0 | 25.0 | 25.0 | 1.00 | 0 |" in text
    assert "Mixture-of-Experts" in text and "coefficient 0.001" in text
    assert "## Experts" not in card(scores, Recipe.named("demo"), None)
    assert "{" not in text.split("## How it was made")[0].split("---", 2)[2]


def test_active_parameters_are_those_of_four_experts_a_layer() -> None:
    recipe = Recipe.named("demo-moe")
    sizes = {
        n: v.size
        for n, v in flat(Qwen3Network(recipe.network_config(ENTRIES)).parameters()).items()
    }
    want = sum(size // 4 if "switch_mlp" in name else size for name, size in sizes.items())
    assert active_parameters(sum(sizes.values()), recipe) == want
    assert active_parameters(123, Recipe.named("demo")) == 123


def test_every_batch_shape_is_tried(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The shortest rows first, a line with time and memory each."""
    monkeypatch.setattr("sys.argv", ["check", "--model", "tiny-moe", "--rows", "1"])
    check.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.endswith("…")] == ["512 x 1 …", "1024 x 1 …"]
    peaks = [float(line.split("peak ")[1].split()[0]) for line in lines if "peak" in line]
    assert len(peaks) == 2 and peaks[1] > peaks[0] > 0
