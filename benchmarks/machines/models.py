"""Decode and prompts of whole networks with random weights: one card, two, and mlx-lm's two.

Every process makes its own share, so that 235B-A22B never lies anywhere whole. All hold the same
random arrays, which costs no time to agree on; `exact` looks at what is computed, this at speed.
"""

from __future__ import annotations

import gc
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any

import qwen3_mlx.device.backend as backend

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from benchmarks.machines import RANK, RESULTS, SIZE, keep, say
from benchmarks.mlx_lm_decode import tokens_a_second
from benchmarks.record import summary
from qwen3_mlx.bench import rates
from qwen3_mlx.bench.random_network import config_values, network
from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.config.share import Share
from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.nn import evaluate
from qwen3_mlx.nn.choose_backend import choose_backend
from qwen3_mlx.nn.parallel import sums_of
from qwen3_mlx.nn.transformer import Qwen3Network

Sample = dict[str, float]
Arm = Callable[[], Sample]


@dataclass(slots=True)
class Lengths:
    """Tokens of the past, of what is decoded, and of prompts."""

    context: int = 512
    tokens: int = 48
    prompts: tuple[int, ...] = (512, 2048)
    rounds: int = 3


LENGTHS = Lengths()


def shrink() -> None:
    """Take few tokens, to try the script."""
    LENGTHS.context, LENGTHS.tokens, LENGTHS.prompts, LENGTHS.rounds = 16, 3, (32,), 1


@dataclass(slots=True)
class Held:
    """One share of a network, and mlx-lm's model with the same arrays."""

    shape: str
    share: Share
    layers: int | None = None
    net: Qwen3Network = field(init=False)
    twin: Any = None

    def __post_init__(self) -> None:
        whole = Qwen3Config.from_dict(config_values(self.shape, "4bit", self.layers))
        self.net = network(self.share.config(whole))
        self.net.share_out(sums_of(self.share))
        weights: dict[str, mx.array] = dict(tree_flatten(self.net.parameters()))
        size = sum(weight.nbytes for weight in weights.values())
        key = f"GB, {self.share.size} machines, attention {'split' * self.share.attention}"
        RESULTS[key] = size / 1e9
        say(f"{self.shape} {self.share}: {size / 1e9:.2f} GB")

    def theirs(self) -> Any:
        """mlx-lm's model, by its own `shard` where the network is shared out."""
        if self.twin is None:
            values = config_values(self.shape, "4bit", self.layers)
            module = import_module(f"mlx_lm.models.{values['model_type']}")
            self.twin = module.Model(module.ModelArgs.from_dict(values))
            _pack(self.twin, Qwen3Config.from_dict(values))
            if self.share.size > 1:
                self.twin.shard(mx.distributed.init())  # of arrays that nobody computes
            weights: dict[str, mx.array] = dict(tree_flatten(self.net.parameters()))
            self.twin.load_weights(list(weights.items()), strict=True)
            self.twin.eval()
        return self.twin


def _pack(model: nn.Module, config: Qwen3Config) -> None:
    def packing(path: str, module: nn.Module) -> bool | dict[str, int]:
        quantization = config.quantization
        if quantization is None or not hasattr(module, "to_quantized"):
            return False
        spec = quantization.spec(path)
        return {"bits": spec.bits, "group_size": spec.group_size} if spec else False

    nn.quantize(model, class_predicate=packing)


def fill(net: Qwen3Network, layers: list[Any]) -> None:
    """Random keys and values of the context, so that no prompt is read for a decode."""
    attention, dtype = net.layers[0].self_attn, net.model.norm.weight.dtype
    size = (1, attention.kv_heads, LENGTHS.context, attention.head_dim)
    for one in layers:
        one.keys, one.values = (mx.random.normal(size).astype(dtype) for _ in range(2))
        one.offset = LENGTHS.context
    mx.eval([[one.keys, one.values] for one in layers])


def decode(held: Held, kernels: str, ahead: int = 1) -> Sample:
    """Greedy steps, `ahead` of them under way before one is read; the host's ms besides."""
    os.environ["QWEN3_MLX_KERNELS"] = kernels
    net = held.net
    choose_backend(net)
    cache = PromptCache(net)
    fill(net, cache.layers)
    forward = cache.step or net
    under_way = [mx.array([1], mx.uint32)]
    begin = host = 0.0
    for index in range(-3, LENGTHS.tokens):
        if index == 0:
            begin, host = time.perf_counter(), 0.0
        start = time.perf_counter()
        token = mx.argmax(forward(under_way[-1][None], cache.layers)[:, -1], axis=-1)
        mx.async_eval(token)
        host += time.perf_counter() - start
        under_way.append(token)
        if len(under_way) > ahead:
            mx.eval(under_way.pop(0))
    mx.eval(under_way)
    took = time.perf_counter() - begin
    return {"decode": LENGTHS.tokens / took, "host_ms": 1e3 * host / LENGTHS.tokens}


def decode_theirs(held: Held) -> Sample:
    """mlx-lm's generate_step from a cache of the same length."""
    from mlx_lm.models.cache import make_prompt_cache

    twin = held.theirs()
    cache = make_prompt_cache(twin)
    fill(held.net, cache)
    return {"decode": tokens_a_second(twin, cache, LENGTHS.tokens)}


def prompt(held: Held, length: int, way: str) -> Sample:
    """Tokens a second of reading a prompt, by us or by mlx-lm."""
    ids = rates.prompt(length, 1000)
    if way == "mlx-lm":
        return {"prompt": rates.theirs(held.theirs(), ids, 1).prefill}
    os.environ["QWEN3_MLX_KERNELS"] = way
    choose_backend(held.net)
    return {"prompt": rates.ours(held.net, ids, 1).prefill}


def together() -> None:
    """Wait until all processes are here."""
    mx.eval(mx.distributed.all_sum(mx.ones((1,))))


def one_alone(arm: Arm) -> Arm:
    """The first process runs it; the others wait."""
    return lambda: arm() if RANK == 0 else {}


def measure(arms: dict[str, Arm], name: str) -> None:
    """Rounds of samples in an order shuffled anew each round; the record is kept after each."""
    shuffle = random.Random(0).shuffle
    samples: dict[str, list[Sample]] = {}
    for turn in range(-1, LENGTHS.rounds):
        order = list(arms)
        if turn >= 0:
            shuffle(order)
        for arm in order:
            begin = time.perf_counter()
            sample = arms[arm]()
            together()
            seconds = time.perf_counter() - begin
            if turn < 0:
                say(f"warm {arm}: {seconds:.1f} s")
                continue
            samples.setdefault(arm, []).append(sample)
            keys = samples[arm][0]
            RESULTS["peak GB"] = mx.get_peak_memory() / 1e9
            RESULTS[arm] = {key: summary([s[key] for s in samples[arm]]) for key in keys}
            keep(name)
    for arm in samples:
        row = {key: round(value["median"], 2) for key, value in RESULTS[arm].items()}
        say(f"{arm}: {row}")


def arms_of(held: Held, label: str) -> Iterator[tuple[str, Arm]]:
    """Our arms with one share: decode with and without kernels, deeper, and prompts."""
    yield f"decode, {label}, fused", lambda: decode(held, "auto")
    yield f"decode, {label}, fused, 3 ahead", lambda: decode(held, "auto", 3)
    yield f"decode, {label}, plain", lambda: decode(held, "off")
    for length in LENGTHS.prompts:
        yield f"prompt {length}, {label}", partial(prompt, held, length, "auto")


def arms_of_theirs(held: Held, label: str) -> Iterator[tuple[str, Arm]]:
    """mlx-lm's with the same arrays."""
    yield f"decode, {label}, mlx-lm", lambda: decode_theirs(held)
    for length in LENGTHS.prompts:
        yield f"prompt {length}, {label}, mlx-lm", partial(prompt, held, length, "mlx-lm")


def trust_the_kernels() -> None:
    """Launch them without the proof of their sizes, which takes ten seconds: `exact` looks."""
    from qwen3_mlx.metal import launch

    if backend.device() == "cpu":
        os.environ["QWEN3_MLX_KERNELS"] = "off"
    else:
        launch.executor = lambda each: launch.on_gpu(each)


def prompt_ways(shape: str, name: str, length: int) -> None:
    """A long prompt by chunk, with and without waiting for the layer behind."""
    trust_the_kernels()
    mx.distributed.init(strict=True)
    shares = {"2 cards": Share(RANK, SIZE), "2 cards, attention whole": Share(RANK, SIZE, False)}
    held = {label: Held(shape, share) for label, share in shares.items()}
    if RANK == 0:
        held["1 card"] = Held(shape, Share(0, 1))
    paced = evaluate.PACED_FROM
    ids = rates.prompt(length, 1000)

    def once(label: str, chunk: int, pace: bool) -> Sample:
        net = held[label].net
        os.environ["QWEN3_MLX_KERNELS"] = "auto" if backend.device() != "cpu" else "off"
        evaluate.PACED_FROM = paced if pace else 1 << 30
        choose_backend(net)
        cache = PromptCache(net)
        begin = time.perf_counter()
        logits = prefill(net, ids, cache, chunk=chunk)
        assert logits is not None
        mx.eval(logits)
        took = time.perf_counter() - begin
        mx.clear_cache()
        return {"prompt": length / took}

    arms: dict[str, Arm] = {}
    for label in [*shares, "1 card"]:
        for chunk in (length // 4, length // 2, length):
            for pace in (True, False):
                arm = partial(once, label, chunk, pace)
                key = f"{label}, chunks of {chunk}, {'paced' if pace else 'not paced'}"
                arms[key] = one_alone(arm) if label == "1 card" else arm
    measure(arms, name)


def run(shape: str, name: str, brief: bool, ours_only: bool = False) -> None:
    """One share after the other where one card holds no two, else all side by side."""
    trust_the_kernels()
    mx.distributed.init(strict=True)
    large = shape.startswith(("235b", "480b"))
    split = Held(shape, Share(RANK, SIZE))
    arms = dict(arms_of(split, f"{SIZE} cards"))
    theirs = {} if ours_only else dict(arms_of_theirs(split, f"{SIZE} cards"))
    if large:
        measure(arms, name)
        measure(theirs, name)
        arms.clear()
        theirs.clear()
        del split
        gc.collect()
        mx.clear_cache()
    whole = Held(shape, Share(RANK, SIZE, attention=False))
    once = dict(arms_of(whole, f"{SIZE} cards, attention whole"))
    if large:
        measure(once, name)
        return
    if not brief:
        alone = Held(shape, Share(0, 1)) if RANK == 0 else split
        single = {**dict(arms_of(alone, "1 card")), **dict(arms_of_theirs(alone, "1 card"))}
        arms |= {key: one_alone(arm) for key, arm in single.items() if "3 ahead" not in key}
    measure(arms | once | theirs, name)
