"""Conversations to rows of tokens with a loss mask, made by worker processes while the GPU trains.

Run as a program it measures: ``python -m training.pack`` prints tokens a second on one core and the
lengths of thoughts by family; a recipe's name after it takes its data.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import sys
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from qwen3_mlx.options.thinking_budget import STOP_TEXT
from training.data.chat import Conversation, converse, prompt
from training.data.tools.talk import (
    CUT,
    LEARN,
    READ,
    Piece,
    ToolTalk,
    converse_with_tools,
    pieces,
)
from training.recipe import Batch, Recipe
from training.tokenizer import token_id

_AT_ONCE = 256  # conversations tokenised together
_LONG = 2048  # rows from this length on also hold long conversations
_WAIT_FOR, _KEEP = 64, 512  # batches
_PATIENCE = 120  # seconds for the workers to start
_BUDGETS = (16, 32, 64, 128, 256)


@dataclass(frozen=True, slots=True)
class Rows:
    """A batch: ``tokens [B, L + 1]`` uint16 and ``mask [B, L + 1]`` uint8 (1: has a loss)."""

    tokens: NDArray[np.uint16]
    mask: NDArray[np.uint8]


Sample = tuple[list[int], list[int]]
"""Token ids, and for each whether the model is to learn to write it."""


def cut_at(rng: Random, length: int) -> int:
    """Where a thought of `length` tokens is cut, 1 to `length`: anywhere, often near a budget."""
    if rng.random() < 0.5:
        near = rng.choice(_BUDGETS) + rng.randint(-1, 1)
        if near < length:
            return near
    return rng.randint(1, length)


class Encoder:
    """Conversations to samples with one model's tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.end = token_id(tokenizer, "<|endoftext|>")
        self._stop = tokenizer.encode(STOP_TEXT).ids

    def encode(self, rng: Random, talks: Sequence[Conversation | ToolTalk]) -> list[Sample]:
        """A sample for each conversation."""
        cut = [pieces(talk) if isinstance(talk, ToolTalk) else _parts(talk) for talk in talks]
        texts = [text for parts in cut for text, _ in parts]
        ids = iter([e.ids for e in self._tokenizer.encode_batch_fast(texts)])
        return [self._sample(rng, [(next(ids), use) for _, use in parts]) for parts in cut]

    def _sample(self, rng: Random, parts: list[tuple[list[int], int]]) -> Sample:
        ids: list[int] = []
        mask: list[int] = []
        for part, use in parts:
            if use == CUT:
                part = part[: cut_at(rng, len(part))]
            ids += part
            mask += [0 if use == READ else 1] * len(part)
            if use == CUT:
                ids += self._stop
                mask += [0] * len(self._stop)
        return [*ids, self.end], [*mask, 0]


def _parts(talk: Conversation) -> list[Piece]:
    """Prompt, thought (in the mode's form) and answer, as texts that tokenise independently."""
    thought: Piece = {
        "thinking": (f"<think>\n{talk.thinking}\n</think>\n\n", LEARN),
        "cut": (f"<think>\n{talk.thinking}\n", CUT),
        "soft": ("<think>\n\n</think>\n\n", LEARN),
        "hard": ("", LEARN),
    }[talk.mode]
    return [(prompt(talk), READ), thought, (talk.answer + "<|im_end|>", LEARN)]


class _Open:
    """Rows being filled, best fit first."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._rows: list[list[Sample]] = []
        self._room: list[tuple[int, int]] = []  # (tokens left, row), ascending

    def add(self, sample: Sample) -> None:
        """Put the sample into the fullest row that still has room, else into a new one."""
        size = len(sample[0])
        at = bisect_left(self._room, (size, -1))
        if at == len(self._room):
            self._rows.append([sample])
            insort(self._room, (self._length - size, len(self._rows) - 1))
            return
        room, row = self._room.pop(at)
        self._rows[row].append(sample)
        insort(self._room, (room - size, row))

    def __len__(self) -> int:
        return len(self._rows)

    def fullest(self, rows: int, pad: int) -> Rows:
        """The `rows` fullest rows as arrays."""
        tokens = np.full((rows, self._length), pad, np.uint16)
        mask = np.zeros((rows, self._length), np.uint8)
        for place, (_, row) in enumerate(self._room[:rows]):
            at = 0
            for ids, learn in self._rows[row]:
                tokens[place, at : at + len(ids)] = ids
                mask[place, at : at + len(ids)] = learn
                at += len(ids)
        return Rows(tokens, mask)


def batches(recipe: Recipe, tokenizer: Tokenizer, seed: str) -> Iterator[tuple[int, Rows]]:
    """Endless batches -> (the index of their shape in the recipe, rows)."""
    rng, encoder = Random(seed), Encoder(tokenizer)
    shares = [batch.share for batch in recipe.batches]
    while True:
        index = rng.choices(range(len(shares)), shares)[0]
        yield index, _batch(rng, encoder, recipe, recipe.batches[index])


def _batch(rng: Random, encoder: Encoder, recipe: Recipe, shape: Batch) -> Rows:
    open_rows, length = _Open(shape.length + 1), shape.length + 1
    enough = shape.rows + max(2, shape.rows // 16)  # the emptiest rows are thrown away
    while len(open_rows) < enough:
        talks = [
            _draw(rng, recipe, long=shape.length >= _LONG and rng.random() < 0.25)
            for _ in range(min(_AT_ONCE, 8 * shape.rows))
        ]
        for sample in encoder.encode(rng, talks):
            if len(sample[0]) <= length:
                open_rows.add(sample)
    return open_rows.fullest(shape.rows, encoder.end)


def _draw(rng: Random, recipe: Recipe, long: bool) -> Conversation | ToolTalk:
    """A conversation, with tools in the recipe's share of them."""
    if recipe.tools and rng.random() < recipe.tools:
        return converse_with_tools(rng, recipe.persona, long)
    return converse(rng, recipe.persona, long)


def _work(name: str, tokenizer_json: str, seed: str, queue: mp.Queue[Any]) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    recipe, tokenizer = Recipe.named(name), Tokenizer.from_str(tokenizer_json)
    for item in batches(recipe, tokenizer, seed):
        queue.put(item)


class Feed:
    """Batches from worker processes; when they fall behind, a batch seen before is given again."""

    def __init__(self, name: str, tokenizer_json: Path, workers: int, seed: int = 0) -> None:
        """`seed` varies the data of the same recipe."""
        context = mp.get_context("spawn")
        self._queue: mp.Queue[Any] = context.Queue(maxsize=4 * workers)
        self._kept: list[tuple[int, Rows]] = []
        self._rng = Random(0)
        text = tokenizer_json.read_text("utf-8")
        base = f"{Recipe.named(name).seed} {seed}"
        self._workers = [
            context.Process(
                target=_work, args=(name, text, f"{base} {worker}", self._queue), daemon=True
            )
            for worker in range(workers)
        ]
        for worker in self._workers:
            worker.start()
        self.repeated = 0

    def next(self) -> tuple[int, Rows]:
        """The next batch; waits for it only while there are fewer than 64 to give again."""
        starting = len(self._kept) < _WAIT_FOR
        try:
            item: tuple[int, Rows] = self._queue.get(timeout=_PATIENCE if starting else 1e-3)
        except Empty:
            if starting:
                raise RuntimeError(f"no batch from the workers for {_PATIENCE} s") from None
            self.repeated += 1
            return self._rng.choice(self._kept)
        if len(self._kept) < _KEEP:
            self._kept.append(item)
        else:
            self._kept[self._rng.randrange(_KEEP)] = item
        return item

    def close(self) -> None:
        for worker in self._workers:
            worker.terminate()


def _measure() -> None:
    import time
    from statistics import mean, median

    from training.data.chat import FAMILIES
    from training.recipe import DEMO

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    recipe = Recipe.named(sys.argv[1] if sys.argv[1:] else "demo")
    tokenizer = Tokenizer.from_file(str(DEMO / "tokenizer.json"))
    for shape in recipe.batches:
        rng, encoder = Random(3), Encoder(tokenizer)
        start, rows = time.perf_counter(), [_batch(rng, encoder, recipe, shape) for _ in range(3)]
        spent = time.perf_counter() - start
        used = mean(float((r.tokens != encoder.end).mean()) for r in rows)
        learnt = mean(float(r.mask.mean()) for r in rows)
        speed = 3 * shape.rows * shape.length / spent
        print(
            f"rows of {shape.length}: {speed:,.0f} tokens/s a core, {used:.1%} filled, "
            f"{learnt:.1%} with loss"
        )
    print("tokens of thought: family, median, mean, longest; of the answer: mean")
    for name, family in FAMILIES.items():
        problems = [family.make(Random(f"{name} {i}")) for i in range(2000)]
        thoughts = [len(tokenizer.encode(p.thinking).ids) for p in problems]
        answers = mean(len(tokenizer.encode(p.answer).ids) for p in problems)
        print(
            f"{name:15} {median(thoughts):5.0f} {mean(thoughts):5.0f} {max(thoughts):5} "
            f"{answers:6.1f}"
        )


if __name__ == "__main__":
    _measure()
