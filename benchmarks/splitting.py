"""What splitting a turn into thought, answer and calls costs, beside decoding it.

    python -m benchmarks.splitting            the demo; --rounds N, --tokens N

Both are one process's time on the same tokens, taken in turn; the share is splitting over decoding.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.record import interleaved, summary, write
from qwen3_mlx.model import Qwen3, load
from qwen3_mlx.text import Mode, Splitter, Tokenizer
from qwen3_mlx.text.tools import normalise_tools

TEXT = (
    "<think>\n"
    + "Let me think about this, step by step: 17 * 23 < 400. " * 20
    + "\n</think>\n\n"
    + "The answer is **391**, since `17 * 23 = 391`.\n\n- a list\n- of <b>things</b>\n" * 20
    + '<tool_call>\n{"name": "f0", "arguments": {"a": "x"}}\n</tool_call><|im_end|>'
)
TOOLS: list[dict[str, Any]] = [
    {"name": f"f{n}", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}
    for n in range(8)
]


def split_seconds(tokenizer: Tokenizer, ids: Sequence[int], tools: Any, deltas: bool) -> float:
    """Seconds a token, pushed one by one."""
    splitter = Splitter(tokenizer, Mode(True, None, False), tools, deltas=deltas)
    began = time.perf_counter()
    for token in ids:
        splitter.push((token,))
    splitter.flush()
    return (time.perf_counter() - began) / len(ids)


def decode_seconds(model: Qwen3, tokens: int) -> float:
    """Seconds a token, of a turn of the model."""
    reply = model.generate("What is 17 * 23?", min_tokens=tokens, max_tokens=tokens, seed=1)
    return 1 / reply.stats.decode_tps


def main() -> None:
    """Print the shares, and write them down."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", nargs="?", default="demo")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    model = load(asked.model)
    ids, tools = model.tokenizer.encode(TEXT), normalise_tools(TOOLS)
    runs: dict[str, Callable[[], float]] = {
        "decoding": lambda: decode_seconds(model, asked.tokens),
        "splitting": lambda: split_seconds(model.tokenizer, ids, [], False),
        "with tools": lambda: split_seconds(model.tokenizer, ids, tools, False),
        "with deltas": lambda: split_seconds(model.tokenizer, ids, tools, True),
    }
    for run in runs.values():
        run()
    samples = interleaved(runs, asked.rounds)
    results = {name: summary(found) for name, found in samples.items()}
    for name in [name for name in runs if name != "decoding"]:
        shares = [a / b for a, b in zip(samples[name], samples["decoding"], strict=True)]
        results[name] |= {"share": statistics.median(shares), "worst": max(shares)}
        row = results[name]
        print(
            f"{name:12} {row['median'] * 1e6:6.1f} us a token, {row['share']:.2%} of decoding"
            f" (at worst {row['worst']:.2%})"
        )
    print(write("splitting", results))


if __name__ == "__main__":
    main()
