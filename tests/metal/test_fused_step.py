"""The fused decode step against the plain network: logits, caches, launches, the engine."""

from __future__ import annotations

import io
import re
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import qwen3_mlx.device.backend as backend

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from qwen3_mlx.checkpoint import load_network
from qwen3_mlx.engine.decode import Decoder
from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.sample import Sampler
from qwen3_mlx.metal import attend, tuning
from qwen3_mlx.metal import launch as build
from qwen3_mlx.metal.launch import Launch
from qwen3_mlx.metal.verdict import Arm
from qwen3_mlx.nn.cache.quantized import QuantizedCache
from qwen3_mlx.nn.cache.tailed import TailedCache
from qwen3_mlx.nn.fused_step import FusedStep, unavailable_reason
from qwen3_mlx.nn.parallel import Sum, Sums
from qwen3_mlx.nn.transformer import Qwen3Network
from qwen3_mlx.options import CacheFormat, Sampling
from tests import tiny
from tests.oracle import assert_close

GOLDEN = Path(__file__).parents[1] / "golden" / "network"
NAMES = sorted(path.name for path in GOLDEN.iterdir() if path.name != "head-dim-narrower")
GREEDY = Sampling(0.0, 1.0, 0, 0.0, 0.0, 1.0)
MOE = {
    "model_type": "qwen3_moe",
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 32,
    "norm_topk_prob": True,
    "head_dim": 8,
}


def step_of(network: Qwen3Network) -> FusedStep:
    step = FusedStep.if_available(network)
    assert step is not None, unavailable_reason(network)
    return step


def decoded(network: Qwen3Network, tokens: list[int], prompt: int) -> mx.array:
    """Logits of the tokens behind the first `prompt`, from fused steps one by one."""
    step = step_of(network)
    cache = step.make_cache()
    network(mx.array([tokens[:prompt]]), cache)
    steps = [step(mx.array([[token]]), cache) for token in tokens[prompt:]]
    assert cache[0].offset == len(tokens)
    return mx.concatenate(steps, axis=1)


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_the_plain_network_s(name: str) -> None:
    network, config = load_network(GOLDEN / name)
    tokens = [(5 * i + 3) % config.vocab_size for i in range(9)]
    want = network(mx.array([tokens]))[:, 6:]
    # 1e-10: the plain path computes its rotations' frequencies in float32
    assert_close(decoded(network, tokens, 6), want, bound=1e-10)


@pytest.mark.parametrize("name", [name for name in NAMES if "moe" in name][:2])
def test_logits_where_the_choice_is_made_by_its_user(
    name: str, monkeypatch: pytest.MonkeyPatch, launches: list[Launch]
) -> None:
    """As on CUDA: one launch a layer less."""
    monkeypatch.setattr(tuning, "choosing", lambda: True)
    test_logits_are_the_plain_network_s(name)
    assert "gate_up" in {launch.kernel for launch in launches}
    assert "route" not in {launch.kernel for launch in launches}


@pytest.mark.parametrize("changes", [{}, MOE])
def test_tails_are_closed_when_full(changes: dict[str, Any], monkeypatch: Any) -> None:
    monkeypatch.setattr(attend, "TAIL", 3)
    network, _ = tiny.network(1, **changes)
    tokens = [(7 * i + 1) % 24 for i in range(12)]
    assert_close(decoded(network, tokens, 2), network(mx.array([tokens]))[:, 2:], bound=1e-10)


class Truth(QuantizedCache):
    """What a packed cache with a tail says: the newest tokens are rounded `attend.TAIL` at once."""

    recent: tuple[tuple[mx.array, mx.array], ...] = ()

    def attend(self, q: mx.array, k: mx.array, v: mx.array, scale: float) -> mx.array:
        if q.shape[2] > 1:
            return super().attend(q, k, v, scale)
        if len(self.recent) == attend.TAIL:
            self.offset -= attend.TAIL
            self.append(*(mx.concatenate(rows, axis=2) for rows in zip(*self.recent, strict=True)))
            self.recent = ()
        held = self.rows(0, self.offset - len(self.recent))
        self.recent, self.offset = (*self.recent, (k, v)), self.offset + 1
        rows = zip(held, *self.recent, strict=True)
        keys, values = (mx.concatenate(parts, axis=2) for parts in rows)
        return mx.fast.scaled_dot_product_attention(q, keys, values, scale=scale)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_packed_past(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attend, "TAIL", 3)
    network, _ = tiny.network(1, head_dim=32)
    cache_format = CacheFormat(bits=bits)
    step = FusedStep.if_available(network, cache_format)
    assert step is not None
    cache, truth = step.make_cache(), [Truth(bits, 32) for _ in network.layers]
    tokens = [(7 * i + 1) % 24 for i in range(12)]
    for layers in (cache, truth):
        network(mx.array([tokens[:4]]), layers)
    for token in tokens[4:]:
        got = step(mx.array([[token]]), cache)
        assert_close(got, network(mx.array([[token]]), truth), bound=1e-10)
    assert cache[0].offset == 12 and cache[0].kind == f"{bits} bits"
    assert [layer.trim(4) for layer in cache] == [4] * len(cache)  # through the tail
    stored = [layer.stored(8) for layer in cache]
    again = step.make_cache()
    for layer, arrays in zip(again, stored, strict=True):
        layer.restore(arrays, 8)
    one = mx.array([[3]])
    assert_close(step(one, again), step(one, cache), bound=1e-10)


def test_a_cache_can_be_trimmed_and_appended_to() -> None:
    """Into the tail, through it, and by ordinary calls: what a session does to it."""
    network, _ = tiny.network(2)
    step = step_of(network)
    cache = step.make_cache()
    tokens = [(3 * i + 2) % 24 for i in range(20)]
    network(mx.array([tokens[:5]]), cache)
    for token in (*tokens[5:9], 1, 1):
        step(mx.array([[token]]), cache)
    assert [layer.trim(2) for layer in cache] == [2, 2]  # within the tail
    assert_close(step(mx.array([[tokens[9]]]), cache), _plain(network, tokens[:10]), bound=1e-10)
    assert [layer.trim(6) for layer in cache] == [6, 6]  # through it
    assert cache[0].offset == 4 and len(cache[0].state) == 2
    network(mx.array([tokens[4:8]]), cache)
    step(mx.array([[tokens[8]]]), cache)
    assert len(cache[0].state) == 3
    got = network(mx.array([tokens[9:12]]), cache)  # closes the tail
    assert_close(got[:, -1:], _plain(network, tokens[:12]), bound=1e-10)
    assert [layer.trim(100) for layer in cache] == [12, 12]


def _plain(network: Qwen3Network, tokens: list[int]) -> mx.array:
    return network(mx.array([tokens]))[:, -1:]


def test_several_tokens_and_empty_or_foreign_caches_take_the_plain_path(
    launches: list[Launch],
) -> None:
    network, _ = tiny.network(3)
    step = step_of(network)
    step(mx.array([[1]]), step.make_cache())
    plain = network.make_cache()
    step(mx.array([[1, 2]]), plain)
    step(mx.array([[1]]), plain)
    assert launches == []


def test_an_unsupported_network_has_a_reason() -> None:
    assert "head_dim 12" in (unavailable_reason(tiny.network(0, head_dim=12)[0]) or "")
    assert FusedStep.if_available(tiny.network(0, head_dim=12)[0]) is None


@pytest.mark.parametrize("changes", [{}, MOE])
def test_the_engine_says_the_same_with_kernels_and_without(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch, launches: list[Launch]
) -> None:
    network, _ = tiny.network(4, **changes)
    said = {}
    for kernels in ("auto", "off"):
        monkeypatch.setenv("QWEN3_MLX_KERNELS", kernels)
        before = len(launches)
        cache = PromptCache(network)
        logits = prefill(network, [1, 2, 3], cache)
        assert logits is not None
        decoder = Decoder(network, cache, Sampler(GREEDY, 24), logits)
        said[kernels] = [decoder.step() for _ in range(6)]
        decoder.inject([4, 5])
        said[kernels] += [decoder.step() for _ in range(4)]
        assert (len(launches) > before) == (kernels == "auto")
    assert said["auto"] == said["off"]


def graph(forward: Any, cache: list[Any], length: int = 100) -> Counter[str]:
    """The operations of one token, by name; those that only rename memory are left out."""
    for layer in cache:
        layer.keys, layer.values = (mx.zeros((1, 2, 256, 128)) for _ in range(2))
        layer.offset = length
    found: list[Counter[str]] = []

    def traced(tokens: mx.array) -> mx.array:
        out = forward(tokens, cache)
        text = io.StringIO()
        mx.export_to_dot(text, out, *[array for layer in cache for array in layer.state])
        found.append(Counter(re.findall(r'label ?="([A-Z]\w+)"', text.getvalue())))
        return out

    with tempfile.TemporaryDirectory() as folder:
        mx.export_function(f"{folder}/f.mlxfn", traced, mx.array([[1]]))
    free = {"Broadcast", "ExpandDims", "Reshape", "Squeeze", "Flatten", "Unflatten", "Transpose"}
    return Counter({name: n for name, n in found[0].items() if name not in free})


@pytest.mark.parametrize(
    ("changes", "choosing", "most"), [({}, False, 5), (MOE, False, 7), (MOE, True, 6)]
)
def test_launches_of_a_layer(
    changes: dict[str, Any], choosing: bool, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted in the traced graph: what a second layer adds to the first."""
    monkeypatch.setattr(backend, "device", lambda: "metal")
    monkeypatch.setattr(tuning, "choosing", lambda: choosing)
    counts = []
    for layers in (1, 2):
        sizes = {"num_hidden_layers": layers, "head_dim": 128, "num_key_value_heads": 2}
        network, _ = tiny.network(5, **(changes | sizes))
        step = step_of(network)
        monkeypatch.setattr(build, "executor", build.on_gpu)
        counts.append(graph(step, step.make_cache()))
        monkeypatch.undo()
        monkeypatch.setattr(backend, "device", lambda: "metal")
        monkeypatch.setattr(tuning, "choosing", lambda: choosing)
    added = counts[1] - counts[0]
    added.pop("Full", None)  # the empty tail, made once in a conversation
    assert added == Counter({"CustomKernel": most})


def test_parameters_are_not_copied() -> None:
    network, _ = tiny.network(6)
    held = {id(weight) for _, weight in tree_flatten(network.parameters())}
    layer = step_of(network).layers[0]
    used = [matrix.weight for matrices in layer.groups() for matrix in matrices]
    assert len(used) == 7
    assert all(id(weight) in held for weight in used)


def test_a_tailed_cache_starts_empty() -> None:
    cache = TailedCache()
    assert (cache.offset, cache.state, cache.trim(3)) == (0, [], 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kernels_of_its_own"),
    [("demo", set()), ("demo-moe", {"route", "gate_up", "down"})],
)
def test_a_demo_says_the_same_with_kernels_and_without(
    name: str,
    kernels_of_its_own: set[str],
    monkeypatch: pytest.MonkeyPatch,
    launches: list[Launch],
) -> None:
    """The bundled models, end to end, greedy, in float32."""
    network, config = load_network(Path(backend.__file__).parents[1] / name)
    assert {w.dtype for _, w in tree_flatten(network.parameters())} == {mx.float32}
    prompt = [(11 * i + 5) % config.vocab_size for i in range(12)]
    said = {}
    for kernels in ("auto", "off"):
        monkeypatch.setenv("QWEN3_MLX_KERNELS", kernels)
        cache = PromptCache(network)
        assert (cache.step is not None) == (kernels == "auto")
        logits = prefill(network, prompt, cache)
        assert logits is not None
        decoder = Decoder(network, cache, Sampler(GREEDY, config.vocab_size), logits)
        said[kernels] = [decoder.step() for _ in range(8)]
    assert kernels_of_its_own <= {launch.kernel for launch in launches}
    assert said["auto"] == said["off"]


@pytest.mark.parametrize("name", [NAMES[0], *[name for name in NAMES if "moe" in name][:1]])
@pytest.mark.parametrize("arm", ["fused", "hybrid"])
def test_a_step_sums_over_machines_as_the_plain_network_does(name: str, arm: Arm) -> None:
    """One of two machines whose other part is half of its own, as if summed."""
    network, config = load_network(GOLDEN / name)
    sums: list[str] = []

    def total(what: str) -> Sum:
        def summed(x: mx.array) -> mx.array:
            sums.append(what)
            return x * 1.5

        return summed

    network.share_out(Sums(total("attention"), total("feed-forward")))
    tokens = [(5 * i + 3) % config.vocab_size for i in range(8)]
    want = network(mx.array([tokens]))[:, 6:]
    sums.clear()
    step = FusedStep(network, arms=(arm, arm))
    cache = step.make_cache()
    network(mx.array([tokens[:6]]), cache)
    sums.clear()
    got = [step(mx.array([[token]]), cache) for token in tokens[6:]]
    assert sums == ["attention", "feed-forward"] * len(network.layers) * 2
    assert_close(mx.concatenate(got, axis=1), want, bound=1e-10)
