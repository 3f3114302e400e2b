"""Greedy tokens of the bundled models in float32, with the kernels on and off: the same or not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qwen3_mlx.device.backend as backend

import mlx.core as mx
from mlx.utils import tree_map

from qwen3_mlx.bench import rates
from qwen3_mlx.checkpoint import load_network
from qwen3_mlx.engine.decode import Decoder
from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.sample import Sampler
from qwen3_mlx.nn.choose_backend import choose_backend
from qwen3_mlx.nn.transformer import Qwen3Network

PACKAGE = Path(backend.__file__).parents[1]
PROMPTS = 4


def said(net: Qwen3Network, prompt: list[int], tokens: int, kernels: str) -> tuple[list[int], bool]:
    """Generate greedily behind `prompt`; returns the tokens, and whether fused steps made them."""
    os.environ["QWEN3_MLX_KERNELS"] = kernels
    choose_backend(net)
    cache = PromptCache(net)
    logits = prefill(net, prompt, cache)
    assert logits is not None
    decoder = Decoder(net, cache, Sampler(rates.GREEDY, logits.shape[-1]), logits)
    return [decoder.step() for _ in range(tokens)], cache.step is not None


def compare(say: Callable[[str], None], tokens: int = 128) -> dict[str, Any]:
    """For each bundled model and prompt: fused or not, and the first place that differs."""
    rows = {}
    for name in ("demo", "demo-moe"):
        if not (PACKAGE / name / "model.safetensors").is_file():
            say(f"tokens {name}: not bundled")
            continue
        net, config = load_network(PACKAGE / name)
        net.update(tree_map(lambda weight: weight.astype(mx.float32), net.parameters()))
        for number in range(PROMPTS):
            prompt = [(11 + number) * i % config.vocab_size for i in range(3 + 5 * number)]
            on, fused = said(net, prompt, tokens, "auto")
            off, _ = said(net, prompt, tokens, "off")
            pairs = zip(on, off, strict=True)
            differs = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
            rows[f"{name} {number}"] = {"fused": fused, "tokens": tokens, "differs_at": differs}
            verdict = "identical" if differs is None else f"DIFFERENT from token {differs}"
            say(f"tokens {name}, prompt {number}: {verdict}, {'fused' if fused else 'NOT fused'}")
    return rows
