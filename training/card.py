"""Writes a demonstration model's card (README.md beside its weights) from its scores.

python -m training.card docs/demo-scores.json --model demo --log LOG.jsonl
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from training.evaluate import DIRECT, UNLIMITED, table
from training.recipe import BUNDLED, Recipe

_CARD = """\
---
license: apache-2.0
library_name: mlx
pipeline_tag: text-generation
tags: [mlx, qwen3, demonstration]
---

# {name}: a demonstration model

A {kind} Qwen3 of {parameters:,} parameters{active}, trained from scratch on generated text, so that
qwen3-mlx can show offline, on any machine, what it does with a real Qwen3: thinking apart from the
answer, thinking held to a budget or cut short, both modes of the hybrid, chat, sampling. It has
Qwen3's architecture, its special tokens and a chat template with the hybrid's behaviour; its
weights and its tokenizer of {vocabulary} entries are its own{shared}.
**It is a toy, and named so.**

## What it can do

Sums and differences of up to five digits, products of up to 3 × 2 digits, expressions with brackets
and two to four operations, the largest or smallest of two to four decimals, counting letters and
vowels, spelling, sorting numbers and words, reversing words and lists, calendar sums; greetings and
small talk in twelve languages; questions about qwen3-mlx. It thinks in English.

## What it can't

Everything else. It knows nothing about the world, can't divide, can't write or code, follows hardly
any instruction, calls no tools, and is wrong at times on its own tasks: more often with numbers
longer than above, with words much longer than twelve letters, and without thinking. Nothing here
says anything about a real Qwen3: for that, run `qwen3-mlx chat 8b`.

## Scores

{per_family} held-out problems per family, none of which occurs in training (the split is by a
hash of the problem), greedy, float32, on {device} with MLX {mlx}. Percent right.

{table}

* Thinking, all families: **{thinking} %**; the multi-step families ({multi_step}): {steps} %,
  without thinking {direct} %.
* Behind a conversation of 1,000 tokens: {late} %. `/no_think` obeyed: {soft} %.
* Small talk and questions about the package, as in the tables: {talk} % get one of their answers.
* Thinking takes {median} tokens (median of the families' medians), at most {longest}.

![accuracy against the budget](../../docs/{name}-budget.png)
{automatic}{load}
## How it was made

{training}Seed {seed}. Optimizer: AdamW, peak learning rate {peak:g}, cosine to nothing; recipe in
`training/models/{name}.toml`. To rebuild: see `training/README.md`; in short

```sh
python -m training.tokenizer --model demo --out OUT
python -m training.train     --model {name} --tokenizer OUT --out OUT --minutes {minutes}
python -m training.evaluate  --model OUT --recipe {name} --out scores.json
```

The schedule follows the clock, so another machine takes another number of steps, and the weights
differ; the data and the tokenizer are the same for the same seed.

License: Apache-2.0, weights and data included.
"""


_AUTOMATIC = """
## Automatic budget

`--budget auto` on {problems:,} other held-out problems, greedy (`python -m training.calibrate`;
bootstrap 95 % intervals): **{accuracy:.1f} %** right with {tokens:.0f} tokens of thinking,
{share:.0f} % of whole thoughts, which are {full:.1f} % right; {gain:+.1f} [{low:+.1f}, {high:+.1f}]
points above a fixed budget of the same mean. A turn asks for its answer {probes:.1f} times; passes
through the network, those of the probes counted, are {passes:.0f} against {whole:.0f}.

{families}

![accuracy against tokens](../../docs/{name}-auto.png)
"""

_LOAD = """
## Experts

Every layer has {experts} experts and sends a token through {top_k} of them, trained with the
load-balancing loss over the whole batch (coefficient {coefficient:g}). Percent of the layer's
visits that each expert got, over {tokens:,} tokens: the held-out problems and what the model wrote,
thinking. An even share is {even:g} %.

{table}

An expert with less than a hundredth of an even share counts as dead.
"""


def load_table(load: dict[str, Any]) -> str:
    """The load as Markdown: a row a layer, a column an expert."""
    experts = len(load["share"][0])
    names = [*map(str, range(experts)), "most / even", "dead"]
    lines = [f"| layer | {' | '.join(names)} |", f"|---|{'---:|' * len(names)}"]
    rows = zip(load["share"], load["max_over_mean"], load["dead"], strict=True)
    for layer, (shares, most, dead) in enumerate(rows):
        cells = [*(f"{share:.1f}" for share in shares), f"{most:.2f}", str(dead)]
        lines.append(f"| {layer} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _load(scores: dict[str, Any], recipe: Recipe) -> str:
    """The section about the experts; nothing for a dense model."""
    load = scores.get("load")
    if load is None:
        return ""
    experts = recipe.network["num_experts"]
    return _LOAD.format(
        experts=experts,
        top_k=recipe.network["num_experts_per_tok"],
        coefficient=recipe.balance,
        tokens=load["tokens"],
        even=100 / experts,
        table=load_table(load),
    )


def automatic(report: dict[str, Any] | None, name: str) -> str:
    """The section about automatic budgets, from calibrate's report; nothing without one."""
    if report is None:
        return ""
    rule, full = report["rules"]["chosen"], report["full"]
    families = rule["families"]
    lines = ["| | " + " | ".join(families) + " |", "|---|" + "---:|" * len(families)]
    rows = {"whole, %": ("full", 100, ".1f"), "auto, %": ("accuracy", 100, ".1f")}
    for label, (key, scale, form) in (rows | {"tokens": ("tokens", 1, ".0f")}).items():
        cells = (format(scale * one[key], form) for one in families.values())
        lines.append(f"| {label} | {' | '.join(cells)} |")
    gain = {part: 100 * number for part, number in rule["gain over fixed"].items()}
    return _AUTOMATIC.format(
        name=name,
        families="\n".join(lines),
        problems=report["test problems"],
        accuracy=100 * rule["accuracy"],
        tokens=rule["tokens"],
        share=100 * rule["share of tokens"]["value"],
        full=100 * full["accuracy"],
        gain=gain["value"],
        low=gain["low"],
        high=gain["high"],
        probes=rule["probes"],
        passes=rule["passes"],
        whole=full["tokens"],
    )


def active_parameters(parameters: int, recipe: Recipe) -> int:
    """The number of `parameters` that work on one token."""
    network = recipe.network
    if "num_experts" not in network:
        return parameters
    idle = network["num_experts"] - network["num_experts_per_tok"]
    expert = 3 * network["hidden_size"] * network["moe_intermediate_size"]
    return parameters - network["num_hidden_layers"] * idle * int(expert)


def _active(parameters: int, recipe: Recipe) -> str:
    active = active_parameters(parameters, recipe)
    return f" ({active:,} of which work on a token)" if active < parameters else ""


def _records(log: Path | None) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text("utf-8").splitlines()] if log else []


def _training(records: list[dict[str, Any]]) -> str:
    """One sentence about the run, from its log.jsonl."""
    if not records:
        return ""
    start = next(r for r in records if "parameters" in r)
    end = next(r for r in reversed(records) if "done" in r)
    speeds = sorted(r["tokens_per_second"] for r in records if "tokens_per_second" in r)
    tokens = speeds[len(speeds) // 2] * end["seconds"]
    dtype = start["compute"].rpartition(".")[2]
    return (
        f"{end['step']:,} steps in {end['seconds'] / 60:.1f} minutes ({start['device']}), "
        f"about {tokens / 1e6:,.0f} million tokens, {dtype} compute with float32 master weights. "
    )


def card(
    scores: dict[str, Any], recipe: Recipe, log: Path | None, auto: dict[str, Any] | None = None
) -> str:
    from statistics import median

    from training.data.chat import MULTI_STEP

    lengths, records = scores["thinking_tokens"].values(), _records(log)
    return _CARD.format(
        name=recipe.name,
        kind="Mixture-of-Experts" if scores["model_type"] == "qwen3_moe" else "dense",
        parameters=scores["parameters"],
        active=_active(scores["parameters"], recipe),
        vocabulary=2048,
        shared="" if recipe.name == "demo" else ", the tokenizer shared with `demo`",
        per_family=scores["per_family"],
        device=scores["device"],
        mlx=scores["mlx"],
        table=table(scores),
        thinking=scores["accuracy"][UNLIMITED]["all"],
        multi_step=", ".join(MULTI_STEP),
        steps=scores["multi_step"][UNLIMITED],
        direct=scores["multi_step"][DIRECT],
        late=scores["after_long_history"],
        soft=scores["soft_switch_obeyed"],
        talk=scores["talk"],
        median=round(median(length["median"] for length in lengths)),
        longest=max(length["max"] for length in lengths),
        automatic=automatic(auto, recipe.name),
        load=_load(scores, recipe),
        training=_training(records),
        minutes=round(records[-1]["seconds"] / 60, 1) if records else 9.3,
        seed=recipe.seed,
        peak=recipe.optimizer.peak,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("scores", type=Path)
    add("--model", default="demo", help="a recipe in training/models")
    add("--auto", type=Path, help="report.json of training.calibrate")
    add("--log", type=Path, help="the run's log.jsonl")
    add("--out", type=Path, help="README.md of the bundled model, if not given")
    args = parser.parse_args()
    scores = json.loads(args.scores.read_text("utf-8"))
    out = args.out or BUNDLED / args.model / "README.md"
    auto = json.loads(args.auto.read_text("utf-8")) if args.auto else None
    out.write_text(card(scores, Recipe.named(args.model), args.log, auto), "utf-8")


if __name__ == "__main__":
    main()
