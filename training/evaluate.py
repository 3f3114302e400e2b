"""Scores a demonstration model on held-out problems, greedily, in every mode.

    python -m training.evaluate --model qwen3_mlx/demo --out docs/demo-scores.json

500 problems per family take a minute or two on a GPU; ``--per-family 20`` is enough for a CPU.
Writes the numbers as JSON and prints them as a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from random import Random
from statistics import mean, median
from typing import Any

import qwen3_mlx.device.backend  # noqa: F401  (before mlx)

import mlx.core as mx
from tokenizers import Tokenizer

from qwen3_mlx.checkpoint import load_network
from qwen3_mlx.device import backend
from training.data.chat import FAMILIES, MULTI_STEP, Message, next_turn
from training.data.exchange import Persona
from training.data.greetings import GREETINGS
from training.data.package import PACKAGE
from training.data.problem import Problem
from training.data.talk import SMALL_TALK
from training.experts import LoadMeter
from training.heldout import ANSWER, THOUGHT, Examiner, Outcome, problems
from training.recipe import DEMO, Recipe
from training.step import flat

BUDGETS = (16, 32, 64, 128, 256)
UNLIMITED, DIRECT = "unlimited", "not thinking"
_HISTORY = 1000  # tokens


def percent(outcomes: list[Outcome]) -> float:
    """Share of right answers in percent."""
    return round(100 * mean(outcome.right for outcome in outcomes), 2)


def by_mode(examiner: Examiner, asked: list[Problem], meter: LoadMeter) -> dict[str, list[Outcome]]:
    """The outcomes of the same problems: not thinking, every budget, unlimited (metered)."""
    prompts = examiner.prompts(asked, "thinking")
    free = examiner.write(prompts, THOUGHT)
    meter.add([prompt + ids for prompt, ids in zip(prompts, free, strict=True)])
    runs = {DIRECT: examiner.write(examiner.prompts(asked, "hard"), ANSWER)}
    for budget in BUDGETS:
        runs[str(budget)] = examiner.budgeted(prompts, free, budget)
    runs[UNLIMITED] = free
    return {
        mode: [examiner.judge(p, ids) for p, ids in zip(asked, run, strict=True)]
        for mode, run in runs.items()
    }


def history(tokenizer: Tokenizer, seed: str, persona: Persona) -> list[Message]:
    """A history of a thousand tokens."""
    rng, messages, turn, length = Random(seed), [], None, 0
    while length < _HISTORY:
        turn = next_turn(rng, persona, turn)
        messages += [
            {"role": "user", "content": turn.question},
            {"role": "assistant", "content": turn.answer},
        ]
        length += len(tokenizer.encode(turn.question + turn.answer).ids) + 8
    return messages


def talk_score(examiner: Examiner, tokenizer: Tokenizer, persona: Persona) -> float:
    """Percent of the small talk, as spelled in the tables, that gets one of its answers."""
    right = []
    exchanges = [*GREETINGS, *PACKAGE, *SMALL_TALK]
    pairs = [(ask, exchange) for exchange in exchanges for ask in exchange.asks]
    asked = [Problem("talk", (), ask, "", "", "") for ask, _ in pairs]
    for ids, (_, exchange) in zip(
        examiner.write(examiner.prompts(asked, "thinking"), THOUGHT), pairs, strict=True
    ):
        said = tokenizer.decode(ids, skip_special_tokens=False).partition("</think>")[2]
        answers = {persona.fill(answer) for answer in exchange.answers}
        right.append(said.removesuffix("<|im_end|>").strip() in answers)
    return round(100 * mean(right), 2)


def soft_switch(examiner: Examiner, tokenizer: Tokenizer, asked: list[Problem]) -> float:
    """Percent of answers to "… /no_think" that begin with the empty block."""
    empty = tokenizer.encode("<think>\n\n</think>\n\n").ids
    flagged = [
        Problem(p.family, p.spec, f"{p.question.rstrip()} /no_think", "", "", p.result)
        for p in asked
    ]
    written = examiner.write(examiner.prompts(flagged, "thinking"), ANSWER)
    return round(100 * mean(ids[: len(empty)] == empty for ids in written), 2)


def evaluate(
    path: Path,
    persona: Persona,
    per_family: int,
    at_once: int,
    samples: int,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Measure the model in `path`; returns all of its numbers."""
    network, config = load_network(path)
    network.set_dtype(mx.float32)
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    examiner, meter = Examiner(network, tokenizer, at_once), LoadMeter(network)
    accuracy: dict[str, dict[str, float]] = {}
    lengths: dict[str, dict[str, float]] = {}
    pooled: dict[str, list[Outcome]] = {}
    wrong: list[dict[str, str]] = []
    asked_by_family = {name: problems(name, per_family, "held out") for name in FAMILIES}
    for name, asked in asked_by_family.items():
        start = time.monotonic()
        outcomes = by_mode(examiner, asked, meter)
        for mode, found in outcomes.items():
            accuracy.setdefault(mode, {})[name] = percent(found)
            pooled.setdefault(mode, []).extend(found)
        tokens = [outcome.thinking_tokens for outcome in outcomes[UNLIMITED]]
        lengths[name] = {
            "median": median(tokens),
            "mean": round(mean(tokens), 1),
            "max": max(tokens),
        }
        wrong += _mistakes(asked, outcomes[UNLIMITED], samples)
        say(f"{name}: {percent(outcomes[UNLIMITED])} % in {time.monotonic() - start:.1f} s")
    for mode, found in pooled.items():
        accuracy[mode]["all"] = percent(found)
    few = max(1, per_family // 5)
    mixed = [p for asked in asked_by_family.values() for p in asked[:few]]
    before = history(tokenizer, "history", persona)
    late = examiner.write(examiner.prompts(mixed, "thinking", before), THOUGHT)
    return {
        "per_family": per_family,
        "problems": len(pooled[UNLIMITED]),
        "accuracy": accuracy,
        "multi_step": {m: _multi_step(accuracy[m]) for m in accuracy},
        "thinking_tokens": lengths,
        "after_long_history": percent(
            [examiner.judge(p, ids) for p, ids in zip(mixed, late, strict=True)]
        ),
        "soft_switch_obeyed": soft_switch(examiner, tokenizer, mixed),
        "talk": talk_score(examiner, tokenizer, persona),
        "parameters": sum(value.size for value in flat(network.parameters()).values()),
        "model_type": config.model_type,
        "load": meter.report(),
        "device": backend.device(),
        "dtype": "float32",
        "mlx": version("mlx"),
        "wrong": wrong,
    }


def _multi_step(row: dict[str, float]) -> float:
    return round(mean(row[name] for name in MULTI_STEP), 2)


def _mistakes(asked: list[Problem], found: list[Outcome], count: int) -> list[dict[str, str]]:
    pairs = [(p, o) for p, o in zip(asked, found, strict=True) if not o.right]
    return [
        {"family": p.family, "question": p.question, "want": p.result, "wrote": o.text[:400]}
        for p, o in pairs[:count]
    ]


def table(scores: dict[str, Any]) -> str:
    """The accuracies as Markdown: a row per mode, a column per family."""
    names = [*FAMILIES, "all"]
    lines = [f"| thinking | {' | '.join(names)} |", f"|---|{'---:|' * len(names)}"]
    for mode, row in scores["accuracy"].items():
        label = f"at most {mode} tokens" if mode.isdigit() else mode
        lines.append(f"| {label} | {' | '.join(f'{row[name]:.1f}' for name in names)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--model", type=Path, default=DEMO)
    add("--recipe", default="demo", help="the recipe it was made by, for what it says of itself")
    add("--out", type=Path, help="JSON file for the numbers")
    add("--per-family", type=int, default=500)
    add("--at-once", type=int, default=512, help="rows decoded together")
    add("--samples", type=int, default=6, help="wrong answers to keep per family")
    args = parser.parse_args()
    scores = evaluate(
        args.model,
        Recipe.named(args.recipe).persona,
        args.per_family,
        args.at_once,
        args.samples,
        lambda text: print(text, flush=True),
    )
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(scores, ensure_ascii=False, indent=1)
        args.out.write_text(text + "\n", "utf-8")
    print(table(scores))
    for name in ("multi_step", "after_long_history", "soft_switch_obeyed", "talk"):
        print(f"{name}: {scores[name]}")
    if scores["load"]:
        print(json.dumps(scores["load"]))
    for mistake in scores["wrong"]:
        print(json.dumps(mistake, ensure_ascii=False))


if __name__ == "__main__":
    main()
