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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Every batch shape keeps its CUDA graphs; with many kept they fill the GPU (docs/log/2026-11.md).
os.environ.setdefault("MLX_CUDA_GRAPH_CACHE_SIZE", "40")

import mlx.core as mx
from tokenizers import Tokenizer

from benchmarks.call_check import CATEGORIES, Call, Question, Step, check
from qwen3_mlx.checkpoint import load_network
from qwen3_mlx.text.template import ChatTemplate
from training.data.tools.exam import questions
from training.decode import greedy
from training.tokenizer import token_id

TOKENS = 640
_CALL = re.compile(r"<tool_call>\n(.*?)\n</tool_call>", re.DOTALL)
MODES = {"thinking": None, "not thinking": False}


@dataclass
class Sitting:
    """A question being answered."""

    question: Question
    thinking: bool | None
    messages: list[dict[str, Any]] = field(default_factory=list)
    turn: int = 0
    step: int = 0
    over: bool = False
    wrong: str = ""
    text: str = ""
    """The latest continuation."""

    def __post_init__(self) -> None:
        self._ask()

    def _ask(self) -> None:
        content = self.question.turns[self.turn].content
        self.messages.append({"role": "user", "content": content})

    def read(self, text: str) -> None:
        """Take a continuation: judge it, and go on to the next step, the next turn, or the end."""
        self.text = text
        thought, closed, said = text.rpartition("</think>")
        calls, unread = read_calls(said)
        steps = self.question.turns[self.turn].steps
        step = steps[self.step] if self.step < len(steps) else Step((), ())
        verdict = check(step.calls, calls, self.question.tools)
        self.wrong = unread or verdict.wrong
        if not self.wrong and not text.endswith("<|im_end|>"):
            self.wrong = "no end"
        if self.wrong or self.question.category != "multi_turn":
            self.over = True
            return
        answer = "" if calls else said.removesuffix("<|im_end|>").strip()
        message: dict[str, Any] = {"role": "assistant", "content": answer}
        if closed and (thought := thought.replace("<think>", "").strip()):
            message["reasoning_content"] = thought
        if calls:
            message["tool_calls"] = [
                {"type": "function", "function": {"name": name, "arguments": arguments}}
                for name, arguments in calls
            ]
        self.messages.append(message)
        self._go_on(step, verdict.places)

    def _go_on(self, step: Step, places: Sequence[int]) -> None:
        self.step += 1
        if step.calls:
            told = [step.results[place] for place in places]
            self.messages += [{"role": "tool", "content": result} for result in told]
            return
        self.turn, self.step = self.turn + 1, 0
        self.over = self.turn == len(self.question.turns)
        if not self.over:
            self._ask()


def read_calls(said: str) -> tuple[list[Call], str]:
    """The calls in a text, and why they can't be read, or ""."""
    calls = []
    for body in _CALL.findall(said):
        try:
            call = json.loads(body)
            calls.append((str(call["name"]), dict(call["arguments"])))
        except (ValueError, KeyError, TypeError) as error:
            return [], f"a call that can't be read: {error}"
    return calls, ""


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

    def answer(self, sittings: Sequence[Sitting]) -> None:
        """Bring all of them to their ends."""
        while going := [sitting for sitting in sittings if not sitting.over]:
            texts = [
                self._template.render(s.messages, tools=s.question.tools, thinking=s.thinking)
                for s in going
            ]
            prompts = [e.ids for e in self._tokenizer.encode_batch(texts)]
            written = greedy(self._network, prompts, TOKENS, self._stop, self._at_once)
            for sitting, ids in zip(going, written, strict=True):
                sitting.read(self._tokenizer.decode(ids, skip_special_tokens=False))


def evaluate(path: Path, per_category: int, at_once: int, samples: int) -> dict[str, Any]:
    """Percent right by mode and category; `calls` is that of the four that need calls."""
    room = Room(path, at_once)
    scores: dict[str, dict[str, float]] = {}
    wrong: list[dict[str, str]] = []
    for mode, thinking in MODES.items():
        start = time.monotonic()
        sittings = [Sitting(q, thinking) for c in CATEGORIES for q in questions(c, per_category)]
        room.answer(sittings)
        row = {c: _percent([s for s in sittings if s.question.category == c]) for c in CATEGORIES}
        row["calls"] = _percent([s for s in sittings if s.question.category != "irrelevance"])
        scores[mode] = row
        print(f"{mode}: {row} in {time.monotonic() - start:.1f} s", flush=True)
        for category in CATEGORIES:
            failed = [s for s in sittings if s.wrong and s.question.category == category]
            wrong += [_shown(mode, s) for s in failed[:samples]]
    return {"per_category": per_category, "scores": scores, "wrong": wrong}


def _percent(sittings: Sequence[Sitting]) -> float:
    return round(100 * sum(not s.wrong for s in sittings) / len(sittings), 1)


def _shown(mode: str, sitting: Sitting) -> dict[str, str]:
    asked = next(m["content"] for m in reversed(sitting.messages) if m["role"] == "user")
    return {
        "mode": mode, "id": sitting.question.id, "asked": asked, "wrong": sitting.wrong,
        "wrote": sitting.text[-400:],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--model", type=Path, required=True)
    add("--out", type=Path, help="JSON file for the numbers")
    add("--per-category", type=int, default=125)
    add("--at-once", type=int, default=256, help="rows decoded together")
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
