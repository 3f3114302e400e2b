"""Trains a demonstration model from scratch.

    python -m training.train --model demo --out qwen3_mlx/demo --minutes 9.3

The schedule follows the clock (``--minutes``) or a number of steps (``--steps``). A checkpoint is
written every minute, so a run that is killed leaves a usable model.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

# Every batch shape keeps its CUDA graphs; with many kept they fill the GPU (docs/log/2026-11.md).
os.environ.setdefault("MLX_CUDA_GRAPH_CACHE_SIZE", "40")

import qwen3_mlx.device.backend  # noqa: F401  (before mlx)

import mlx.core as mx
from mlx.utils import tree_unflatten
from tokenizers import Tokenizer

from qwen3_mlx.device import backend
from qwen3_mlx.nn.choose_backend import choose_backend
from qwen3_mlx.nn.transformer import Qwen3Network
from training.pack import Feed, Rows
from training.quick import quick_scores
from training.recipe import DEMO, Recipe
from training.step import Losses, Trainer, Tree, initialise
from training.tokenizer import ENTRIES

START = time.monotonic()
FILES = ("generation_config.json", "tokenizer.json", "tokenizer_config.json")
_DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16}
_EARLY = (1, 2, 5, 10, 20, 50)
"""Steps that are logged too, so that a run which ends early has said how far it came."""
_FLOOR = 0.005  # of the peak learning rate, at the very end


@dataclass
class Clock:
    """How far the run is: by time, or by steps where `steps` is given."""

    minutes: float
    steps: int | None
    spent: float = 0.0
    """Seconds that earlier parts of a resumed run took."""
    step: int = 0

    @property
    def seconds(self) -> float:
        """Seconds since the beginning of the run, start-up included."""
        return self.spent + time.monotonic() - START

    @property
    def progress(self) -> float:
        """The part of the run that is done, from 0 to 1."""
        if self.steps is not None:
            return min(1.0, self.step / self.steps)
        return min(1.0, self.seconds / (60 * self.minutes))


def learning_rate(clock: Clock, peak: float, warmup_steps: int) -> float:
    """Linear warm-up by steps, then a cosine down to almost nothing at the end of the clock."""
    cosine = 0.5 * (1 + math.cos(math.pi * clock.progress))
    return peak * min(1.0, (clock.step + 1) / warmup_steps) * (_FLOOR + (1 - _FLOOR) * cosine)


def as_arrays(rows: Rows) -> tuple[mx.array, mx.array]:
    """Tokens as int32, mask as stored."""
    return mx.array(rows.tokens).astype(mx.int32), mx.array(rows.mask)


def choose_dtype(recipe: Recipe, network: Qwen3Network, rows: Rows) -> mx.Dtype:
    """bfloat16 if it agrees with float32 on a batch and is faster on this machine."""
    seen: dict[str, tuple[float, float, float]] = {}
    tokens, mask = as_arrays(rows)
    for name in ("float32", "bfloat16"):
        try:
            parameters = initialise(network, recipe.seed)
            trainer = Trainer(network, recipe.optimizer, parameters, _DTYPES[name], recipe.balance)
            loss, norm, _ = (float(x) for x in trainer.step(tokens, mask, 0.0))
            mx.eval(trainer.step(tokens, mask, 0.0))
            start = time.monotonic()
            for _ in range(6):
                last = trainer.step(tokens, mask, 0.0)
            mx.eval(last, trainer.state())
            seen[name] = loss, norm, (time.monotonic() - start) / 6
        except Exception as error:  # whatever a backend raises for a type that it lacks
            print(f"{name}: {type(error).__name__}: {error}", flush=True)
            continue
        print(f"{name}: loss {loss:.4f}, norm {norm:.4f}, {seen[name][2] * 1e3:.1f} ms", flush=True)
    mx.clear_cache()
    if "float32" not in seen or "bfloat16" not in seen:
        return _DTYPES[next(iter(seen))]
    (loss, norm, slow), (loss16, norm16, fast) = seen["float32"], seen["bfloat16"]
    agree = abs(loss - loss16) < 0.02 * loss and abs(norm - norm16) < 0.1 * norm
    return mx.bfloat16 if agree and fast < 0.95 * slow else mx.float32


def save(trainer: Trainer, out: Path) -> None:
    """model.safetensors in bfloat16, replaced in one move."""
    temporary = out / "model.partial.safetensors"
    mx.save_safetensors(str(temporary), trainer.weights(mx.bfloat16), {"format": "mlx"})
    temporary.replace(out / "model.safetensors")


def save_state(trainer: Trainer, clock: Clock, path: Path) -> None:
    """Masters, optimizer state and clock, for --resume."""
    temporary = path.with_suffix(".partial.safetensors")
    notes = {"seconds": str(clock.seconds), "step": str(clock.step)}
    mx.save_safetensors(str(temporary), trainer.state(), notes)
    temporary.replace(path)


def resume(trainer: Trainer, clock: Clock, path: Path) -> None:
    """Continue where the state file left off, on its clock."""
    arrays, notes = cast(
        tuple[dict[str, mx.array], dict[str, str]], mx.load(str(path), return_metadata=True)
    )
    trainer.restore(arrays)
    clock.spent, clock.step = float(notes["seconds"]), int(notes["step"])


def write_config(out: Path, recipe: Recipe, generation: dict[str, Any]) -> None:
    """config.json of the recipe's network, with the tokenizer's ids."""
    close, end = generation["eos_token_id"]
    text = json.dumps(recipe.config_json(ENTRIES, close, end), indent=2)
    (out / "config.json").write_text(text + "\n", "utf-8")


@dataclass
class Journal:
    """The log: a line on the terminal and in log.jsonl, and the text of the run's speed."""

    path: Path
    tokens: int = 0
    since: float = 0.0

    def loss(self, clock: Clock, losses: Losses, rate: float, repeated: int) -> None:
        """Log a line about the last steps."""
        loss, norm, balance = (float(x) for x in losses)
        now = clock.seconds
        speed = self.tokens / max(now - self.since, 1e-9)
        self.tokens, self.since = 0, now
        self.write(
            step=clock.step, seconds=round(now, 1), loss=round(loss, 4), norm=round(norm, 3),
            balance=round(balance, 3), rate=round(rate, 6), tokens_per_second=round(speed),
            repeated_batches=repeated,
        )  # fmt: skip

    def write(self, **values: object) -> None:
        line = json.dumps(values, ensure_ascii=False)
        print(line, flush=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def run(args: argparse.Namespace) -> None:
    recipe = Recipe.named(args.model)
    args.out.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        if args.out.resolve() != args.tokenizer.resolve():
            shutil.copy(args.tokenizer / name, args.out / name)
    tokenizer_json = args.tokenizer / "tokenizer.json"
    write_config(args.out, recipe, json.loads((args.out / FILES[0]).read_text("utf-8")))
    tokenizer = Tokenizer.from_file(str(tokenizer_json))
    clock = Clock(args.minutes, args.steps)
    feed = Feed(args.model, tokenizer_json, args.workers, seed=args.data_seed)
    try:
        _train(args, recipe, tokenizer, clock, feed)
    finally:
        feed.close()


def first_parameters(args: argparse.Namespace, recipe: Recipe, network: Qwen3Network) -> Tree:
    """Fresh parameters, or with --init those of an earlier model."""
    if args.init is None:
        return initialise(network, recipe.seed)
    stored = cast(dict[str, mx.array], mx.load(str(args.init)))
    return tree_unflatten([(name, value.astype(mx.float32)) for name, value in stored.items()])


def _train(
    args: argparse.Namespace, recipe: Recipe, tokenizer: Tokenizer, clock: Clock, feed: Feed
) -> None:
    config = recipe.network_config(tokenizer.get_vocab_size())
    network, probe = Qwen3Network(config), Qwen3Network(config)
    choose_backend(probe)
    _, rows = feed.next()
    compute = _DTYPES.get(args.compute) or choose_dtype(recipe, network, rows)
    parameters = first_parameters(args, recipe, network)
    trainer = Trainer(network, recipe.optimizer, parameters, compute, recipe.balance)
    if args.resume:
        resume(trainer, clock, args.resume)
    journal = Journal(args.out / "log.jsonl", since=clock.seconds)
    count = sum(value.size for value in trainer.weights(mx.float32).values())
    journal.write(
        parameters=count, compute=str(compute), device=backend.device(), cores=os.cpu_count()
    )
    saved = looked = clock.seconds
    before: Losses | None = None
    leave = args.leave_after * 60 if args.leave_after else math.inf
    while clock.progress < 1 and time.monotonic() - START < leave:
        rate = learning_rate(clock, recipe.optimizer.peak, recipe.optimizer.warmup_steps)
        _, rows = feed.next()
        result = trainer.step(*as_arrays(rows), rate)
        clock.step += 1
        journal.tokens += rows.tokens.size
        if before is not None:
            mx.eval(before)  # at most two steps in flight
        before = result
        if clock.step % args.log_every == 0 or clock.step in _EARLY:
            journal.loss(clock, result, rate, feed.repeated)
        if clock.seconds - saved > args.save_every:
            save(trainer, args.out)
            if args.state:
                save_state(trainer, clock, args.state)
            saved = clock.seconds
        if args.look and clock.seconds - looked > args.look_every:
            trainer.load_into(probe, mx.float32)
            journal.write(step=clock.step, **quick_scores(probe, tokenizer, args.look))
            looked = journal.since = clock.seconds
            journal.tokens = 0
    save(trainer, args.out)
    if args.state:
        save_state(trainer, clock, args.state)
    if args.look:
        trainer.load_into(probe, mx.float32)
        journal.write(step=clock.step, **quick_scores(probe, tokenizer, args.look))
    journal.write(done=True, step=clock.step, seconds=round(clock.seconds, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--model", default="demo", help="a recipe in training/models")
    add("--tokenizer", type=Path, default=DEMO, help="directory with the files besides the weights")
    add("--out", type=Path, default=DEMO)
    add("--minutes", type=float, default=9.3, help="length of the schedule, start-up included")
    add("--steps", type=int, help="length of the schedule in steps instead")
    add("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    add("--data-seed", type=int, default=0, help="other data with the same recipe")
    add("--compute", choices=("auto", *_DTYPES), default="auto")
    add("--log-every", type=int, default=100, help="steps")
    add("--save-every", type=float, default=60, help="seconds")
    add("--look-every", type=float, default=120, help="seconds between held-out scores")
    add("--look", type=int, default=32, help="held-out problems per family for them; 0: no scores")
    add("--state", type=Path, help="also write what --resume needs, to this .safetensors file")
    add("--init", type=Path, help="begin with the weights of this model.safetensors")
    add("--resume", type=Path, help="continue from such a file, on the same schedule")
    add("--leave-after", type=float, help="minutes after which this process ends, done or not")
    run(parser.parse_args())


if __name__ == "__main__":
    main()
