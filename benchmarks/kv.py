"""The price of keys and values in 8 and 4 bits on a really trained model: the bundled demo.

    python -m benchmarks.kv --per-family 30

Divergence: of the next-token distributions over what the model itself writes (prompt, thought and
answer, read through a real packed cache), from those with keys and values as computed; without and
behind a history of a thousand tokens. Accuracy: held-out problems answered greedily, thinking and
not, each row of keys and values rounded as the packed cache rounds it; some answers are written
again by the engine itself with a real packed cache, which must say the same.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx
from tokenizers import Tokenizer

from benchmarks.record import write
from qwen3_mlx.checkpoint import load_network
from qwen3_mlx.engine.decode import Decoder
from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.sample import Sampler
from qwen3_mlx.hub import resolve
from qwen3_mlx.nn.transformer import Qwen3Network
from qwen3_mlx.options import CacheFormat, Sampling
from training import decode
from training.data.chat import FAMILIES
from training.data.exchange import Persona
from training.data.problem import Problem
from training.evaluate import history, percent
from training.heldout import ANSWER, THOUGHT, Examiner, problems

KINDS = {"as computed": CacheFormat(), "8 bits": CacheFormat(bits=8), "4 bits": CacheFormat(bits=4)}
GREEDY = Sampling(0.0, 1.0, 0)
Tokens = Sequence[int]


def rows_of(cache_format: CacheFormat, head_dim: int) -> type:
    """The evaluation's rows, with keys and values rounded as `kept` rounds them."""

    class Rounded(decode._Rows):
        def _append(self, index: int, k: mx.array, v: mx.array) -> tuple[mx.array, mx.array]:
            if cache_format.bits is not None:
                packing = (cache_format.group(head_dim), cache_format.bits)
                k, v = (mx.dequantize(*mx.quantize(t, *packing), *packing) for t in (k, v))
            return super()._append(index, k, v)

    return Rounded


def divergences(
    network: Qwen3Network, texts: Sequence[Tokens], cache_format: CacheFormat
) -> list[float]:
    """KL in nats at every position of every text, from keys and values as computed."""
    found: list[float] = []
    for text in texts:
        tokens = mx.array([list(text)])
        logits = [
            network(tokens, network.make_cache(kind))[0] for kind in (CacheFormat(), cache_format)
        ]
        p, q = (z - mx.logsumexp(z, axis=-1, keepdims=True) for z in logits)
        kl: list[float] = (mx.exp(p) * (p - q)).sum(-1).tolist()  # type: ignore[assignment]  # one axis
        found += kl
    return found


def spread(found: list[float]) -> dict[str, float]:
    """Mean, 99th percentile and maximum."""
    ordered = sorted(found)
    return {
        "mean": statistics.fmean(found),
        "p99": ordered[int(0.99 * (len(found) - 1))],
        "largest": ordered[-1],
        "positions": len(found),
    }


def written(
    network: Qwen3Network, prompt: Tokens, cache_format: CacheFormat, stop: frozenset[int]
) -> list[int]:
    """Generate greedily with a real cache of that format; returns the tokens."""
    cache = PromptCache(network, cache_format)
    out: list[int] = []
    logits = prefill(network, prompt, cache)
    assert logits is not None
    decoder = Decoder(network, cache, Sampler(GREEDY, logits.shape[-1]), logits)
    while len(out) < THOUGHT:
        out.append(decoder.step())
        if out[-1] in stop:
            break
    return out


def accuracy(
    examiner: Examiner, asked: list[Problem], cache_format: CacheFormat, head_dim: int
) -> tuple[dict[str, Any], list[list[int]]]:
    """Percent right by mode, over all and by family, and what was written while thinking."""
    found: dict[str, Any] = {}
    free: list[list[int]] = []
    with patch.object(decode, "_Rows", rows_of(cache_format, head_dim)):
        for mode, limit in (("thinking", THOUGHT), ("hard", ANSWER)):
            runs = examiner.write(examiner.prompts(asked, mode), limit)  # type: ignore[arg-type]  # a Mode
            outcomes = [examiner.judge(p, ids) for p, ids in zip(asked, runs, strict=True)]
            rows = {
                name: percent([o for p, o in zip(asked, outcomes, strict=True) if p.family == name])
                for name in sorted({p.family for p in asked})
            }
            found["thinking" if mode == "thinking" else "not thinking"] = {
                "all": percent(outcomes),
                **rows,
            }
            free = free or runs
    return found, free


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--per-family", type=int, default=30)
    add("--texts", type=int, default=60, help="texts over which the divergence is taken")
    add("--again", type=int, default=6, help="answers that the engine writes again")
    args = parser.parse_args()
    began = time.perf_counter()
    path = resolve.resolve("demo")
    network, config = load_network(path)
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    examiner = Examiner(network, tokenizer)
    asked = [p for name in FAMILIES for p in problems(name, args.per_family, "kv")]
    persona = Persona("demo")
    before = history(tokenizer, "kv", persona)
    prompts, far = (examiner.prompts(asked, "thinking", h) for h in ((), before))
    results: dict[str, Any] = {"problems": len(asked), "head_dim": config.head_dim}
    texts: list[list[list[int]]] = []
    plain: list[list[int]] = []
    for name, kept in KINDS.items():
        scores, free = accuracy(examiner, asked, kept, config.head_dim)
        plain = plain or free
        same = sum(a == b for a, b in zip(free, plain, strict=True)) / len(asked)
        row: dict[str, Any] = {"accuracy": scores, "same text": same}
        if not texts:
            every = range(0, len(asked), max(len(asked) // args.texts, 1))
            texts = [[p[i] + free[i] for i in every] for p in (prompts, far)]
        if kept.bits is not None:
            row["kl"] = spread(divergences(network, texts[0], kept))
            row["kl behind 1,000 tokens"] = spread(divergences(network, texts[1][::4], kept))
        stop = examiner._stop
        again = [
            written(network, prompts[i], kept, stop) == free[i]
            for i in range(0, len(asked), max(len(asked) // args.again, 1))
        ]
        row["the engine writes the same"] = f"{sum(again)} of {len(again)}"
        results[name] = row
        print(name, f"{time.perf_counter() - began:.0f} s", row, flush=True)
    print(write("kv", results))


if __name__ == "__main__":
    main()
