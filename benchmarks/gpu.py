"""Readings for a short time on a GPU: right first, then speed, most wanted first.

    python -m benchmarks.gpu --seconds 84 [--phases accuracy fused blocks theirs dense more]

Every line is printed at once with the time it took; the record is rewritten after every phase. A
phase that would start later than `--seconds` is left out. Contexts are made of random keys and
values, so that no prefill (whose kernels MLX compiles for long) is needed.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("MLX_ENABLE_TF32", "0")
os.environ.setdefault("QWEN3_MLX_KERNELS", "auto")

import qwen3_mlx.backend as backend

import mlx.core as mx

from benchmarks.accuracy import random
from benchmarks.layer import RESULTS, START, layer_cases, say
from benchmarks.record import summary, write
from benchmarks.shapes import SHAPES, bandwidth, bytes_per_token, config, mlx_lm_twin, network
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.metal import down, gate_up, probe
from qwen3_mlx.nn.fused import FusedLayer
from qwen3_mlx.nn.transformer import Qwen3


def accuracy() -> None:
    """bfloat16 at the sizes of 30B-A3B."""
    layer_cases(mx.bfloat16, 2048, 768, (32, 4), 1)


def more() -> None:
    """float32, several tokens, other sizes."""
    layer_cases(mx.float32, 2048, 768, (32, 4), 3)
    layer_cases(mx.bfloat16, 4096, 1536, (64, 4), 8)
    layer_cases(mx.float16, 2048, 768, (32, 8), 2)


def context(net: Qwen3, shape: str, length: int, layers: list[Any]) -> None:
    """Fill a cache (ours or mlx-lm's) with random keys and values."""
    c = config(shape)
    dtype = net.model.norm.weight.dtype
    size = (1, c["num_key_value_heads"], length, c["head_dim"])
    for layer in layers:
        layer.keys, layer.values = random(*size, dtype=dtype), random(*size, dtype=dtype)
        layer.offset = length
    mx.eval([[layer.keys, layer.values] for layer in layers])


def decode_ours(net: Qwen3, shape: str, tokens: int, rounds: int) -> dict[str, Any]:
    """Tokens a second of pipelined greedy steps, and the host's share of a step in ms."""
    cache = PromptCache(net)
    assert cache.step, "the fused step is off"
    context(net, shape, 512, cache.layers)
    rates, hosts = [], []
    token = mx.array([1], mx.uint32)

    def step(token: mx.array) -> mx.array:
        # asserted above to be there
        hidden = cache.step(token[None], cache.layers)  # type: ignore[misc]
        following = mx.argmax(net.head(hidden[:, -1]), axis=-1)
        mx.async_eval(following)
        return following

    for turn in range(rounds + 1):
        begin, host = time.perf_counter(), 0.0
        for _ in range(tokens):
            start = time.perf_counter()
            following = step(token)
            host += time.perf_counter() - start
            mx.eval(token)
            token = following
        mx.eval(token)
        took = time.perf_counter() - begin
        if turn:
            rates.append(tokens / took)
            hosts.append(1e3 * host / tokens)
        else:
            say(f"  first {tokens} tokens, compilation included: {took:.1f} s")
    return {"decode": summary(rates), "host_ms": summary(hosts)}


def decode_theirs(net: Qwen3, shape: str, tokens: int, rounds: int) -> dict[str, Any]:
    """mlx-lm's generate_step on the same weights and a cache of the same length."""
    from mlx_lm.generate import generate_step
    from mlx_lm.models.cache import make_prompt_cache

    twin = mlx_lm_twin(net, shape, "4bit")
    rates = []
    for turn in range(rounds + 1):
        cache = make_prompt_cache(twin)
        context(net, shape, 512, cache)
        steps = generate_step(mx.array([1]), twin, max_tokens=tokens + 3, prompt_cache=cache)
        for _ in range(3):
            next(steps)
        begin = time.perf_counter()
        for _ in range(tokens):
            next(steps)
        took = time.perf_counter() - begin
        steps.close()
        if turn:
            rates.append(tokens / took)
        else:
            say(f"  first {tokens} tokens: {took:.1f} s")
    return {"decode": summary(rates)}


NETS: dict[str, Qwen3] = {}


def net_of(shape: str) -> Qwen3:
    """Build once."""
    if shape not in NETS:
        NETS[shape] = network(shape, "4bit")
        say(f"{shape} is built")
    return NETS[shape]


def show(name: str, shape: str, row: dict[str, Any]) -> None:
    """Print and keep a decode reading."""
    rate = RESULTS.setdefault("bandwidth", bandwidth(1.0 if backend.device() != "cpu" else 0.05))
    share = row["decode"]["median"] / (rate / bytes_per_token(net_of(shape), shape, 512))
    RESULTS[f"{shape} {name}"] = row | {"share_of_roofline": share}
    host = f", host {row['host_ms']['median']:.2f} ms" if "host_ms" in row else ""
    say(f"{shape} {name}: {row['decode']['median']:.1f} tok/s, {100 * share:.1f} %{host}")


def fused() -> None:
    """30B-A3B, fused steps."""
    show("fused", MOE, decode_ours(net_of(MOE), MOE, 64, 4))


def theirs() -> None:
    """30B-A3B, mlx-lm."""
    show("mlx-lm", MOE, decode_theirs(net_of(MOE), MOE, 64, 3))


def dense() -> None:
    """8B, both."""
    show("fused", DENSE, decode_ours(net_of(DENSE), DENSE, 64, 4))
    show("mlx-lm", DENSE, decode_theirs(net_of(DENSE), DENSE, 64, 3))


def blocks() -> None:
    """One Mixture-of-Experts block in µs: fused, and an empty block."""
    net = net_of(MOE)
    layers = [
        FusedLayer(b.self_attn, b.mlp, (b.input_layernorm, b.post_attention_layernorm))
        for b in net.layers[:24]
    ]
    hidden, count, top_k = (SHAPES[MOE][i] for i in (1, 5, 6))
    for tokens in (1, 2, 4, 8):
        scores = mx.random.uniform(shape=(tokens, count))
        experts = mx.argsort(scores, axis=-1)[:, :top_k].astype(mx.uint32)
        weights = mx.full((tokens, top_k), 1 / top_k)

        def block(x: mx.array, experts: mx.array = experts, w: mx.array = weights) -> mx.array:
            for layer in layers:
                h = gate_up.gate_up(x, layer.gate, layer.up, experts, w, layer.norms[1], layer.eps)
                x = down.down(h, layer.down, experts, residual=x)
            return x

        def empty(x: mx.array) -> mx.array:
            for layer in layers:
                x = x + mx.fast.rms_norm(x, layer.norms[1], 1e-6)
            return x

        def stock(x: mx.array, experts: mx.array = experts, w: mx.array = weights) -> mx.array:
            for one in net.layers[:24]:
                y = one.mlp.switch_mlp(
                    mx.fast.rms_norm(x, one.post_attention_layernorm.weight, 1e-6), experts
                )
                x = x + (y * w[..., None]).sum(-2).astype(x.dtype)
            return x

        x = mx.random.normal((tokens, hidden)).astype(net.model.norm.weight.dtype)
        arms = {"fused": block, "empty": empty} | ({"stock": stock} if STOCK else {})
        row = {}
        for name, chain in arms.items():
            compiled, samples = mx.compile(chain), []
            mx.eval(x, compiled(x))
            for _ in range(9):
                begin = time.perf_counter()
                mx.eval([compiled(x) for _ in range(4)])
                samples.append((time.perf_counter() - begin) / (4 * len(layers)) * 1e6)
            row[name] = summary(samples)
        RESULTS.setdefault("stock blocks" if STOCK else "blocks", {})[f"T={tokens}"] = row
        say(f"T={tokens} " + ", ".join(f"{k} {v['median']:.1f} µs" for k, v in row.items()))


def stock() -> None:
    """The same with MLX's own operations beside."""
    global STOCK
    STOCK = True
    blocks()


PHASES: dict[str, Callable[[], None]] = {
    phase.__name__: phase for phase in (accuracy, fused, blocks, theirs, dense, stock, more)
}
MOE, DENSE, STOCK = "30b-a3b", "8b", False


def main() -> None:
    """Run the phases."""
    global MOE, DENSE
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=84)
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=list(PHASES))
    parser.add_argument("--tiny", action="store_true", help="tiny networks, to try the script")
    parser.add_argument("--name", default="gpu")
    args = parser.parse_args()
    if args.tiny:
        MOE, DENSE = "tiny-moe", "tiny"
    if "accuracy" not in args.phases:
        say("kernels are trusted without their probe")
    probe.fault = lambda name: None  # type: ignore[assignment]  # its compilations take time
    say(f"{backend.device()} {mx.device_info().get('device_name', '')}")
    for name in args.phases:
        if time.perf_counter() - START > args.seconds:
            say(f"no time left for {name}")
            continue
        say(f"== {name}")
        try:
            PHASES[name]()
        except Exception as fault:
            RESULTS[f"{name} failed"] = str(fault)
            say(f"{name} FAILED: {type(fault).__name__}: {str(fault)[:400]}")
        RESULTS["environment_variables"] = {k: v for k, v in os.environ.items() if k[:4] == "MLX_"}
        write(args.name, RESULTS)
    say("done")


if __name__ == "__main__":
    main()
