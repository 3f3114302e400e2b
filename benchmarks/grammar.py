"""How fast an answer in a form comes, against a free one: the same network, one process.

    python -m benchmarks.grammar                      the demo
    python -m benchmarks.grammar 8b --recipe 4bit     a published shape with random weights, and the
                                                      vocabulary in the folder QWEN3_FILES

`masked` takes any text, so that every token is masked and none is forced; `schema` are records,
with what is forced fed in passes of their own; `drawn` are the same, token by token.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from functools import partial

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx

from benchmarks.record import interleaved, summary, write
from qwen3_mlx.bench.random_network import SHAPES, config_values, network
from qwen3_mlx.chat.form import MIN_FORCED
from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.engine.decode import Decoder
from qwen3_mlx.engine.guide import Guide
from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.sample import Sampler
from qwen3_mlx.model import load
from qwen3_mlx.nn.transformer import Qwen3Network
from qwen3_mlx.options import NOT_THINKING
from qwen3_mlx.text import Tokenizer
from qwen3_mlx.text.grammar import Vocabulary, regex_grammar, schema_grammar

RECORD = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "minLength": 30, "maxLength": 60},
        "pages": {"type": "integer", "minimum": 1, "maximum": 5000},
        "kind": {"enum": ["novel", "play", "poem"]},
        "authors": {"type": "array", "items": {"type": "string", "minLength": 10}, "minItems": 2},
    },
    "required": ["title", "pages", "kind", "authors"],
    "additionalProperties": False,
}
GRAMMARS = {
    "masked": (regex_grammar("(?s:.){100000,}"), None),
    "schema": (schema_grammar({"type": "array", "items": RECORD, "minItems": 500}), MIN_FORCED),
    "drawn": (schema_grammar({"type": "array", "items": RECORD, "minItems": 500}), None),
}


def rate(net: Qwen3Network, make: Callable[[], Guide | None], prompt: int, tokens: int) -> float:
    """Tokens a second, behind a prompt and 8 tokens."""
    cache, guide = PromptCache(net), make()
    ids = [n % 200 for n in range(prompt)]
    logits = prefill(net, ids, cache)
    assert logits is not None
    sampler = Sampler(NOT_THINKING, net.vocab_size, ids, 1)
    decoder = Decoder(net, cache, sampler, logits, None, guide)
    began, done = 0.0, -8
    while done < tokens:
        if done >= 0 and not began:
            began, start = time.perf_counter(), done
        token = decoder.step()
        done += 1
        if guide is None:
            continue
        guide.take(token, False)
        if forced := guide.forced(1000):
            for one in forced:
                guide.take(one, False)
            decoder.inject(forced)
            done += len(forced)
    mx.synchronize()
    return (done - start) / (time.perf_counter() - began)


def guide(vocabulary: Vocabulary, name: str) -> Guide | None:
    if name == "free":
        return None
    grammar, least = GRAMMARS[name]
    return Guide(vocabulary.match(grammar), vocabulary.rows, least_forced=least)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", nargs="?", default="demo")
    parser.add_argument("--recipe", default="4bit")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    if asked.model in SHAPES:
        values = config_values(asked.model, asked.recipe, asked.layers)
        net = network(Qwen3Config.from_dict(values))
        tokenizer = Tokenizer.from_dir(os.environ["QWEN3_FILES"])
    else:
        model = load(asked.model)
        net, tokenizer = model.network, model.tokenizer
    vocabulary = Vocabulary(tokenizer, net.vocab_size)
    arms = ["free", *GRAMMARS]
    runs = {
        name: partial(rate, net, partial(guide, vocabulary, name), 64, asked.tokens)
        for name in arms
    }
    for run in runs.values():  # compiles what is compiled once
        run()
    samples = interleaved(runs, asked.rounds)
    results = {name: summary(found) for name, found in samples.items()}
    for name, row in results.items():
        ratios = sorted(a / b for a, b in zip(samples[name], samples["free"], strict=True))
        results[name]["of_free"] = ratios[len(ratios) // 2]
        noisy = "   (noisy)" if row["noisy"] else ""
        print(f"{name:8} {row['median']:8.1f} tok/s   {row['of_free']:.3f} of free{noisy}")
    print(write(f"grammar-{asked.model}", results))


if __name__ == "__main__":
    main()
