"""Scores a demonstration model on held-out questions with tools, greedily, many at once.

    python -m training.evaluate_tools --model OUT --out OUT/demo-tools-scores.json

125 questions a category (`--per-category`) take a minute or two on a GPU. A question is right if
every step's calls are right, and no tool is called where none fits; see `benchmarks.call_check`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Every batch shape keeps its CUDA graphs; with many kept they fill the GPU (docs/log/2026-11.md).
os.environ.setdefault("MLX_CUDA_GRAPH_CACHE_SIZE", "40")

import qwen3_mlx.device.backend  # noqa: F401  (before mlx)

import mlx.core as mx
from tokenizers import Tokenizer

from benchmarks.call_check import CATEGORIES, Call
from benchmarks.call_sitting import Said, Sitting, percent
from qwen3_mlx.checkpoint import load_network
from qwen3_mlx.text.template import ChatTemplate
from training.data.tools.exam import questions
from training.decode import greedy
from training.tokenizer import token_id

TOKENS = 640
_CALL = re.compile(r"<tool_call>\n(.*?)\n</tool_call>", re.DOTALL)
MODES = {"thinking": None, "not thinking": False}


def read_calls(said: str) -> tuple[list[Call], str]:
    """The calls in a text, and why they can't be read, or ""."""
    calls = []
    for body in _CALL.findall(said):
        try:
            call = json.loads(body)
            calls.append((str(call["name"]), dict(call["arguments"])))
        except (ValueError, KeyError, TypeError) as error:
            return [], f"a call that can't be read: {error}"
    marks = said.count("<tool_call>")
    return calls, "" if marks == len(calls) else "a call that doesn't end"


def said(text: str) -> Said:
    """What a continuation says."""
    thought, _, rest = text.rpartition("</think>")
    calls, fault = read_calls(rest)
    fault = fault if text.endswith("<|im_end|>") else "no end"
    answer = "" if calls else rest.removesuffix("<|im_end|>").strip()
    return Said(calls, answer, thought.replace("<think>", "").strip(), fault)


class Room:
    """The model, answering many sittings at once."""

    def __init__(self, path: Path, at_once: int) -> None:
        self._network, _ = load_network(path)
        self._network.set_dtype(mx.float32)
        self._tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
        self._template = ChatTemplate.from_dir(path)
        self._at_once = at_once
        self._stop = frozenset(
            token_id(self._tokenizer, name) for name in ("<|im_end|>", "<|endoftext|>")
        )

    def answer(self, sittings: Sequence[Sitting], thinking: bool | None) -> dict[str, str]:
        """Bring all of them to their ends -> the latest text by the question's id."""
        latest: dict[str, str] = {}
        while going := [sitting for sitting in sittings if not sitting.over]:
            texts = [
                self._template.render(s.messages, tools=s.question.tools, thinking=thinking)
                for s in going
            ]
            prompts = [e.ids for e in self._tokenizer.encode_batch(texts)]
            written = greedy(self._network, prompts, TOKENS, self._stop, self._at_once)
            for sitting, ids in zip(going, written, strict=True):
                text = self._tokenizer.decode(ids, skip_special_tokens=False)
                latest[sitting.question.id] = text
                sitting.read(said(text))
        return latest


def evaluate(path: Path, per_category: int, at_once: int, samples: int) -> dict[str, Any]:
    """Percent right by mode and category; `calls` is that of the four that need calls."""
    room = Room(path, at_once)
    scores: dict[str, dict[str, float]] = {}
    wrong: list[dict[str, str]] = []
    for mode, thinking in MODES.items():
        start = time.monotonic()
        sittings = [Sitting(q) for c in CATEGORIES for q in questions(c, per_category)]
        latest = room.answer(sittings, thinking)
        row = {c: percent([s for s in sittings if s.question.category == c]) for c in CATEGORIES}
        row["calls"] = percent([s for s in sittings if s.question.category != "irrelevance"])
        scores[mode] = row
        print(f"{mode}: {row} in {time.monotonic() - start:.1f} s", flush=True)
        for category in CATEGORIES:
            failed = [s for s in sittings if s.wrong and s.question.category == category]
            wrong += [_shown(mode, s, latest[s.question.id]) for s in failed[:samples]]
    return {"per_category": per_category, "scores": scores, "wrong": wrong}


def _shown(mode: str, sitting: Sitting, text: str) -> dict[str, str]:
    return {
        "mode": mode, "id": sitting.question.id, "asked": sitting.asked, "wrong": sitting.wrong,
        "wrote": text[-400:],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--model", type=Path, required=True)
    add("--out", type=Path, help="JSON file for the numbers")
    add("--per-category", type=int, default=125)
    add("--at-once", type=int, default=128, help="rows decoded together")
    add("--samples", type=int, default=6, help="wrong answers to keep a mode and category")
    args = parser.parse_args()
    scores = evaluate(args.model, args.per_category, args.at_once, args.samples)
    if args.out:
        text = json.dumps(scores, ensure_ascii=False, indent=1)
        args.out.write_text(text + "\n", "utf-8")
    for mistake in scores["wrong"]:
        print(json.dumps(mistake, ensure_ascii=False))


if __name__ == "__main__":
    main()
