"""What held-out problems would answer at every end of a sentence of their thoughts."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from qwen3_mlx.engine.probe import LONGEST
from qwen3_mlx.engine.probe_schedule import ProbeRule, ProbeSchedule
from qwen3_mlx.engine.short_answer import is_complete, short_answer
from qwen3_mlx.nn.transformer import Qwen3Network
from qwen3_mlx.text import Tokenizer
from qwen3_mlx.thinking_budget import STOP_TEXT
from training.data.chat import FAMILIES
from training.data.problem import Problem
from training.heldout import ANSWER, THOUGHT, Examiner

BUDGETS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
_ROWS = 32


def is_for_calibration(problem: Problem) -> bool:
    """Which half a problem belongs to: by its own hash, whatever else is drawn."""
    key = FAMILIES[problem.family].key(problem.spec)
    return zlib.crc32(f"calibrate {key}".encode()) % 2 == 0


class Tracer:
    """Writes the traces of one model's problems."""

    def __init__(
        self, network: Qwen3Network, tokens: Tokenizer, examiner: Examiner, slot: str
    ) -> None:
        self.network, self.tokens, self.examiner = network, tokens, examiner
        self.stop, self.slot = tokens.encode(STOP_TEXT), tokens.encode(slot)

    def traces(self, asked: Sequence[Problem]) -> list[dict[str, Any]]:
        """A dict a problem: its thought's length, probes, and answers under fixed budgets."""
        examiner = self.examiner
        prompts = examiner.prompts(asked, "thinking")
        free = examiner.write(prompts, THOUGHT)
        close = self.tokens.think_close
        lengths = [ids.index(close) if close in ids else len(ids) for ids in free]
        found: list[dict[str, Any]] = [
            {
                "family": problem.family,
                "calibration": is_for_calibration(problem),
                "tokens": length,
                "right": examiner.judge(problem, ids).right,
                "probes": [],
                "fixed": {},
            }
            for problem, ids, length in zip(asked, free, lengths, strict=True)
        ]
        for budget in BUDGETS:
            cut = examiner.budgeted(prompts, free, budget)
            for row, problem, ids, length in zip(found, asked, cut, lengths, strict=True):
                right = examiner.judge(problem, ids).right
                row["fixed"][str(budget)] = [right, min(budget, length)]
        self._add_probes(asked, prompts, free, lengths, found)
        self._add_direct(asked, found)
        return found

    def _add_probes(
        self,
        asked: Sequence[Problem],
        prompts: Sequence[list[int]],
        free: Sequence[list[int]],
        lengths: Sequence[int],
        found: list[dict[str, Any]],
    ) -> None:
        places = [
            (index, at)
            for index, (ids, length) in enumerate(zip(free, lengths, strict=True))
            for at in self.ends(ids[:length])
        ]
        begun = [[*prompts[i], *free[i][:at], *self.stop] for i, at in places]
        answers = self.examiner.write(begun, ANSWER)
        probed = self.probe(begun)
        for (i, at), answer, one in zip(places, answers, probed, strict=True):
            ids = [*free[i][:at], *self.stop, *answer]
            right = self.examiner.judge(asked[i], ids).right
            found[i]["probes"].append({"at": at, "right": right} | one)

    def _add_direct(self, asked: Sequence[Problem], found: list[dict[str, Any]]) -> None:
        prompts = self.examiner.prompts(asked, "hard")
        answers, probed = self.examiner.write(prompts, ANSWER), self.probe(prompts)
        for row, problem, answer, one in zip(found, asked, answers, probed, strict=True):
            row["direct"] = {"right": self.examiner.judge(problem, answer).right} | one

    def ends(self, thought: Sequence[int]) -> list[int]:
        """Where a probe may come: behind so many tokens."""
        schedule = ProbeSchedule(ProbeRule(1, 1, 1.0, ()))
        places = []
        for at, token in enumerate(thought, 1):
            schedule.read(self.tokens.id_to_bytes(token))
            if schedule.due(at):
                places.append(at)
        return places

    def probe(self, begun: Sequence[list[int]]) -> list[dict[str, Any]]:
        """A short answer behind each, with what every rule needs to know of it."""
        asked = [[*ids, *self.slot] for ids in begun]
        answers = self.examiner.write(asked, LONGEST)
        first = self.first_entropies(begun)
        scores = self.scores(asked, answers)
        return [
            self._summary(answer, probabilities) | {"entropy": round(entropy, 4)}
            for answer, probabilities, entropy in zip(answers, scores, first, strict=True)
        ]

    def _summary(self, answer: list[int], probabilities: list[float]) -> dict[str, Any]:
        pieces: list[bytes] = []
        ended = False
        for token in answer:
            if token in self.tokens.eos_ids:
                ended = True
                break
            pieces.append(self.tokens.id_to_bytes(token))
            if is_complete(b"".join(pieces).decode("utf-8", "replace")):
                ended = True
                break
        short = short_answer(pieces, probabilities[: len(pieces)]) if ended else None
        return {
            "value": None if short is None else short.value,
            "certainty": 0.0 if short is None else round(short.certainty, 5),
            "all": round(min(probabilities[: len(pieces)], default=0.0), 5),
            "cost": len(self.slot) + len(pieces),
        }

    def scores(self, asked: Sequence[list[int]], answers: Sequence[list[int]]) -> list[list[float]]:
        """The probabilities of the answers' tokens."""
        found: list[list[float]] = [[] for _ in asked]
        rows = [[*a, *b] for a, b in zip(asked, answers, strict=True)]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        for start in range(0, len(order), _ROWS):
            some = order[start : start + _ROWS]
            width = max(len(rows[i]) for i in some)
            x = mx.array([rows[i] + [0] * (width - len(rows[i])) for i in some])
            logits = self.network(x[:, :-1]).astype(mx.float32)
            taken = mx.take_along_axis(logits, x[:, 1:, None], axis=-1)[..., 0]
            values: Any = mx.exp(taken - mx.logsumexp(logits, axis=-1)).tolist()
            for line, i in zip(values, some, strict=True):
                found[i] = line[len(asked[i]) - 1 : len(rows[i]) - 1]
            mx.clear_cache()
        return found

    def first_entropies(self, begun: Sequence[list[int]]) -> list[float]:
        """The entropy of the first token behind each, in nats."""
        found = [math.nan] * len(begun)
        order = sorted(range(len(begun)), key=lambda i: len(begun[i]))
        for start in range(0, len(order), _ROWS):
            some = order[start : start + _ROWS]
            width = max(len(begun[i]) for i in some)
            x = mx.array([begun[i] + [0] * (width - len(begun[i])) for i in some])
            last = mx.array([len(begun[i]) - 1 for i in some])
            hidden = self.network.model(x)[mx.arange(len(some)), last]
            logits = self.network.head(hidden).astype(mx.float32)
            logs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
            values: Any = (-(mx.exp(logs) * logs).sum(-1)).tolist()
            for value, i in zip(values, some, strict=True):
                found[i] = value
            mx.clear_cache()
        return found
