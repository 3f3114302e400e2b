"""One of several processes that share networks: run by test_parallel.py, over the loopback ring.

    python -m tests.nn.ranks SIZE

Rank 0 computes each network whole as well, compares, and prints a line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

# Not as in the conftest: BLAS's two threads wait for each other, spinning, and as batches they
# don't interrupt whom they wait for. 37 seconds of two busy cores, 20 so.
if hasattr(os, "SCHED_BATCH"):
    with contextlib.suppress(OSError):  # a container may forbid it
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map_with_path

from benchmarks.machines.exact import shared
from qwen3_mlx.bench.random_network import _pack
from qwen3_mlx.checkpoint import load_network
from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.config.share import Share
from qwen3_mlx.engine.decode import Decoder
from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.sample import Sampler
from qwen3_mlx.hub import resolve
from qwen3_mlx.hub.releases import SIZES
from qwen3_mlx.nn.choose_backend import choose_backend
from qwen3_mlx.nn.parallel import sums_of
from qwen3_mlx.nn.transformer import Qwen3Network
from qwen3_mlx.options import CacheFormat, Sampling

GREEDY = Sampling(0.0, 1.0, 0, 0.0, 0.0, 1.0)
FORMATS = {
    "as computed": CacheFormat(),
    "8 bits": CacheFormat(bits=8),
    "4 bits": CacheFormat(bits=4),
    "window": CacheFormat(window=64),
}
PROMPT = [(7 * i * i + 3) % 90 for i in range(150)]
"""More tokens than the window."""
CHUNK, OTHER_CHUNKS = 64, (32, 150)
RANK, SIZE = int(os.environ["MLX_RANK"]), int(sys.argv[1])


def ratio(size: str) -> Qwen3Config:
    """The published shape with its ratios of heads and its kind, and everything else tiny."""
    values = SIZES[size].config()
    queries = values["num_attention_heads"] // values["num_key_value_heads"]
    values |= {"num_hidden_layers": 2, "hidden_size": 64, "head_dim": 32, "vocab_size": 96}
    values |= {"num_attention_heads": 4 * queries, "num_key_value_heads": 4}
    values |= {"intermediate_size": 256}
    if values["model_type"] == "qwen3_moe":
        values |= {"num_experts": 12, "num_experts_per_tok": 3, "moe_intermediate_size": 128}
    return Qwen3Config.from_dict(values)


def random_network(config: Qwen3Config, bits: int | None) -> tuple[Qwen3Network, Qwen3Config]:
    mx.random.seed(2)
    net = Qwen3Network(config)

    def spread(path: str, weight: mx.array) -> mx.array:
        if "norm" in path:
            return 1 + 0.2 * mx.random.normal(weight.shape)
        return mx.random.normal(weight.shape) * (2.0 if "embed" in path else 0.3)

    net.update(tree_map_with_path(spread, net.parameters()))
    if bits is not None:
        values = {"bits": bits, "group_size": 32}
        from qwen3_mlx.config.quantization import read_quantization

        config = replace(config, quantization=read_quantization({"quantization": values}))
        _pack(net, config)
    mx.eval(net.parameters())
    net.eval()
    choose_backend(net)
    return net, config


def greedy(net: Qwen3Network, kept: CacheFormat) -> tuple[list[int], list[mx.array]]:
    """Tokens, and logits behind a prompt, behind a cut, and behind a trim."""
    cache = PromptCache(net, kept)
    first = prefill(net, PROMPT, cache, chunk=CHUNK)
    assert first is not None
    decoder = Decoder(net, cache, Sampler(GREEDY, first.shape[-1]), first)
    tokens = [decoder.step() for _ in range(12)]
    decoder.inject([5, 6, 7])
    tokens += [decoder.step() for _ in range(4)]
    cache.drop_uncommitted()
    cache.keep([*PROMPT, *tokens[:6]])
    last = prefill(net, [8, 9], cache)
    assert last is not None
    mx.eval(first, last)
    return tokens, [first, last]


def compared(whole: Qwen3Network, own: Qwen3Network, kept: CacheFormat) -> dict[str, Any]:
    got, mine = greedy(own, kept)
    if RANK:
        return {}  # the first process has the cores to itself
    tokens, logits = greedy(whole, kept)
    errors = [nmse(a, b) for a, b in zip(mine, logits, strict=True)]
    return {
        "same": got == tokens,
        "nmse": max(errors),
        "rounding": rounding(whole, kept, logits[0]),
        "tokens": len(set(tokens)),
    }


def nmse(got: mx.array, want: mx.array) -> float:
    """``Σ (got - want)² / Σ want²``."""
    return float((((got - want) ** 2).sum() / (want**2).sum()).item())


def rounding(whole: Qwen3Network, kept: CacheFormat, want: mx.array) -> float:
    """How far one process alone is from `want` if it reads the prompt in other chunks."""
    found = [prefill(whole, PROMPT, PromptCache(whole, kept), chunk=n) for n in OTHER_CHUNKS]
    return max(nmse(logits, want) for logits in found if logits is not None)


def heard_by_all(net: Qwen3Network) -> None:
    """Have a stage's head give every process the first one's logits, so that each draws alike."""
    head = net.head

    def told(hidden: mx.array) -> mx.array:
        mx.async_eval(hidden)  # what goes to the next machine is before the sum on every machine
        shape = (*hidden.shape[:-1], net.vocab_size)
        logits = mx.distributed.all_sum(mx.zeros(shape) if RANK else head(hidden))
        mx.async_eval(logits)
        return logits

    object.__setattr__(net, "head", told)


def bytes_of(net: Qwen3Network) -> int:
    weights: dict[str, mx.array] = dict(tree_flatten(net.parameters()))
    return sum(weight.nbytes for weight in weights.values())


def cases() -> Iterator[tuple[str, dict[str, Any]]]:
    for name in ("demo", "demo-moe"):
        path = resolve.resolve(name)
        whole, config = load_network(path)
        for attention in (True, False):
            share = Share(RANK, SIZE, attention)
            if list(share.faults(config)):
                continue
            own, _ = load_network(path, share=share)
            own.share_out(sums_of(share))
            for kept in FORMATS if attention and SIZE == 2 else ["as computed"]:
                row = compared(whole, own, FORMATS[kept])
                row["bytes"] = bytes_of(own) / bytes_of(whole)
                yield f"{name}, {kept}, attention {'split' if attention else 'whole'}", row
        if SIZE == 3:
            stage, _ = load_network(path, share=Share(RANK, SIZE, pipeline=True))
            heard_by_all(stage)
            for kept in FORMATS if name == "demo" else ["8 bits", "window"]:
                row = compared(whole, stage, FORMATS[kept])
                yield (
                    f"{name}, {kept}, pipeline",
                    row | {"bytes": bytes_of(stage) / bytes_of(whole)},
                )
    if SIZE == 3:  # it divides no heads
        return
    for index, size in enumerate(SIZES if SIZE == 2 else ("4B", "14B", "235B-A22B")):
        bits = (None, 4, 8)[index % 3]
        whole, config = random_network(ratio(size), bits)
        own = shared(whole, config, Share(RANK, SIZE))
        yield f"{size}, {bits}", compared(whole, own, FORMATS["as computed"])
        if SIZE == 2:
            stage, _ = random_network(ratio(size), bits)
            stage.model.layers = stage.model.layers[RANK : RANK + 1]
            stage.become_stage(RANK, SIZE)
            heard_by_all(stage)
            row = compared(whole, stage, FORMATS["as computed"])
            yield f"{size}, {bits}, pipeline", row


def main() -> None:
    mx.distributed.init(strict=True, backend="ring")
    found = dict(cases())
    if RANK == 0:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
