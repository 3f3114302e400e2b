"""Do two cards give one card's greedy tokens? In float32, real sizes, few layers."""

from __future__ import annotations

import os

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten

from benchmarks.machines import RANK, RESULTS, SIZE, keep, say
from benchmarks.machines.models import trust_the_kernels
from qwen3_mlx.bench.random_network import config_values, network
from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.config.share import Share
from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.nn.choose_backend import choose_backend
from qwen3_mlx.nn.parallel import sums_of
from qwen3_mlx.nn.transformer import Qwen3Network


def shared(whole: Qwen3Network, config: Qwen3Config, share: Share) -> Qwen3Network:
    """This process's part of a network that every process holds whole."""
    net = network(share.config(config))
    weights: dict[str, mx.array] = dict(tree_flatten(whole.parameters()))
    own = {
        name: mx.contiguous(value[share.part(name.rpartition(".")[0], value.shape)])
        for name, value in weights.items()
    }
    net.update(tree_unflatten(list(own.items())))
    mx.eval(net.parameters())
    net.share_out(sums_of(share))
    choose_backend(net)
    return net


def greedy(net: Qwen3Network, tokens: int) -> tuple[list[int], mx.array]:
    """Tokens behind a prompt, and the prompt's last logits."""
    cache = PromptCache(net)
    logits = prefill(net, [(7 * i * i + 3) % 1000 for i in range(70)], cache)
    assert logits is not None
    first, found = logits, []
    for _ in range(tokens):
        token = mx.argmax(logits, axis=-1)
        value: int = token.tolist()[0]  # type: ignore[index, assignment]  # nested lists, to mypy
        found.append(value)
        logits = (cache.step or net)(token[None], cache.layers)[:, -1]
        cache.tokens.append(found[-1])
    mx.eval(first)
    return found, first


def run(shapes: list[str], tiny: bool) -> None:
    """Every shape, attention split and whole, kernels on and off."""
    trust_the_kernels()
    mx.distributed.init(strict=True)
    tokens = 4 if tiny else 64
    kernels = [os.environ.get("QWEN3_MLX_KERNELS", "auto")]
    if kernels == ["auto"]:
        kernels.append("off")
    for shape in shapes:
        config = Qwen3Config.from_dict(config_values(shape, "4bit", 2 if tiny else 4))
        whole = network(config)
        whole.set_dtype(mx.float32)
        choose_backend(whole)
        os.environ["QWEN3_MLX_KERNELS"] = "off"
        wanted, logits = greedy(whole, tokens)
        for attention in (True, False):
            for choice in kernels:
                os.environ["QWEN3_MLX_KERNELS"] = choice
                share = Share(RANK, SIZE, attention)
                got, mine = greedy(shared(whole, config, share), tokens)
                error = ((mine - logits) ** 2).sum() / (logits**2).sum()
                row = {"same tokens": got == wanted, "NMSE": error.item(), "tokens": got[:8]}
                key = f"{shape}, attention {'split' if attention else 'whole'}, kernels {choice}"
                RESULTS[key] = row
                say(f"{key}: {row}")
                keep("exact")
