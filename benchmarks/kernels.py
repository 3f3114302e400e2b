"""One Mixture-of-Experts block: fused, stock, and an empty block, for 1 to 8 tokens.

    python -m benchmarks.kernels --shape 30b-a3b --recipe 4bit

A block is norm, experts (their choice given) and residual. `--layers` blocks run one after another
with weights of their own, compiled and evaluated once; the time of one is reported in µs. The
empty block is a norm and an addition: what launches cost by themselves.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import qwen3_mlx.device.backend as backend

import mlx.core as mx

from benchmarks.record import interleaved, summary, write
from qwen3_mlx.bench.random_network import SHAPES, config_values, network
from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.metal import dispatch, down, gate_up
from qwen3_mlx.nn.fused_experts import matrix_of
from qwen3_mlx.nn.moe import MoE
from qwen3_mlx.nn.transformer import Block


@dataclass(frozen=True, slots=True)
class Chain:
    """The layers, and what all of them are given."""

    blocks: list[Block]
    experts: mx.array
    weights: mx.array

    def stock(self, x: mx.array) -> mx.array:
        """MLX's own operations, as mlx-lm calls them."""
        for block in self.blocks:
            y = block.mlp.switch_mlp(block.post_attention_layernorm(x), self.experts)
            x = x + (y * self.weights[..., None]).sum(-2).astype(x.dtype)
        return x

    def fused(self, x: mx.array) -> mx.array:
        """Two launches."""
        for block in self.blocks:
            norm = block.post_attention_layernorm
            parts = block.mlp.switch_mlp
            gate, up = matrix_of(parts.gate_proj), matrix_of(parts.up_proj)
            eps = norm.eps
            h = gate_up.gate_up(x, gate, up, self.experts, self.weights, norm.weight, eps)
            x = down.down(h, matrix_of(parts.down_proj), self.experts, residual=x)
        return x

    def empty(self, x: mx.array) -> mx.array:
        """Two tiny launches."""
        for block in self.blocks:
            x = x + block.post_attention_layernorm(x)
        return x


def timed(chain: Callable[[mx.array], mx.array], x: mx.array, layers: int) -> Callable[[], float]:
    """Runs the chain ten times; µs of one block."""
    compiled = mx.compile(chain)

    def once() -> float:
        mx.eval(compiled(x))
        start = time.perf_counter()
        for _ in range(10):
            mx.eval(compiled(x))
        return (time.perf_counter() - start) / (10 * layers) * 1e6

    return once


def main() -> None:
    """Measure, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="30b-a3b")
    parser.add_argument("--recipe", default="4bit")
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    values = config_values(args.shape, args.recipe, args.layers)
    net = network(Qwen3Config.from_dict(values))
    dtype = backend.compute_dtype(mx.bfloat16)[0]
    hidden, count, top_k = (SHAPES[args.shape][i] for i in (1, 5, 6))
    assert isinstance(net.layers[0].mlp, MoE)
    rows: dict[str, Any] = {}
    for tokens in (1, 2, 4, 8):
        scores = mx.random.uniform(shape=(tokens, count))
        experts = mx.argsort(scores, axis=-1)[:, :top_k].astype(mx.uint32)
        chain = Chain(net.layers, experts, mx.full((tokens, top_k), 1 / top_k))
        x = mx.random.normal((tokens, hidden)).astype(dtype)
        mx.eval(experts, x, chain.weights)
        arms = {"stock": chain.stock, "fused": chain.fused, "empty": chain.empty}
        if dispatch.unavailable_reason("gate_up", "down"):
            del arms["fused"]
        runs = {name: timed(arm, x, args.layers) for name, arm in arms.items()}
        samples = interleaved(runs, args.rounds, warm_up=2)
        rows[f"T={tokens}"] = {name: summary(values) for name, values in samples.items()}
        line = "   ".join(f"{n} {rows[f'T={tokens}'][n]['median']:6.1f} µs" for n in samples)
        print(f"T={tokens}   {line}")
    print(write(f"kernels-{args.shape}-{args.recipe}", vars(args) | {"rows": rows}))


if __name__ == "__main__":
    main()
