"""What held-out problems would answer at every end of a sentence of their thoughts."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from qwen3_mlx.engine.probe import LONGEST
from qwen3_mlx.engine.probe_schedule import ProbeRule, ProbeSchedule
from qwen3_mlx.engine.short_answer import is_complete, short_answer
from qwen3_mlx.nn.transformer import Qwen3Network
from qwen3_mlx.options.thinking_budget import STOP_TEXT
from qwen3_mlx.text import Tokenizer
from training.branches import Branch, Place, branches
from training.data.chat import FAMILIES
from training.data.problem import Problem
from training.heldout import ANSWER, THOUGHT, Examiner

BUDGETS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256)


def is_for_calibration(problem: Problem) -> bool:
    """Which half a problem belongs to: by its own hash, whatever else is drawn."""
    key = FAMILIES[problem.family].key(problem.spec)
    return zlib.crc32(f"calibrate {key}".encode()) % 2 == 0


class Thoughts(NamedTuple):
    """Problems, each with its prompt and what the model wrote behind it without a limit."""

    asked: Sequence[Problem]
    prompts: Sequence[list[int]]
    free: Sequence[list[int]]

    def texts(self) -> list[list[int]]:
        """Prompt and thought of each."""
        return [[*prompt, *ids] for prompt, ids in zip(self.prompts, self.free, strict=True)]


class Tracer:
    """Writes the traces of one model's problems."""

    def __init__(
        self, network: Qwen3Network, tokens: Tokenizer, examiner: Examiner, slot: str
    ) -> None:
        self.network, self.tokens, self.examiner = network, tokens, examiner
        self.stop, self.slot = tuple(tokens.encode(STOP_TEXT)), tuple(tokens.encode(slot))
        self.stops = frozenset(tokens.eos_ids)

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
        run = Thoughts(asked, prompts, free)
        self._add_fixed(run, found)
        self._add_probes(run, found)
        self._add_direct(asked, found)
        return found

    def _add_fixed(self, run: Thoughts, found: list[dict[str, Any]]) -> None:
        """The answers of the documented two calls; a thought that is over by then goes on."""
        cut = [
            (i, budget)
            for i, row in enumerate(found)
            for budget in BUDGETS
            if budget < row["tokens"]
        ]
        places = [Place(i, len(run.prompts[i]) + budget, self.stop) for i, budget in cut]
        ends = dict(zip(cut, self.write(run.texts(), places, ANSWER), strict=True))
        for i, row in enumerate(found):
            for budget in BUDGETS:
                right, tokens = row["right"], min(budget, row["tokens"])
                if (end := ends.get((i, budget))) is not None:
                    ids = [*run.free[i][:budget], *self.stop, *end.ids]
                    right = self.examiner.judge(run.asked[i], ids).right
                row["fixed"][str(budget)] = [right, tokens]

    def _add_probes(self, run: Thoughts, found: list[dict[str, Any]]) -> None:
        """What a probe at each end of a sentence would have found."""
        spots = [
            (i, at) for i, row in enumerate(found) for at in self.ends(run.free[i][: row["tokens"]])
        ]
        places = [Place(i, len(run.prompts[i]) + at, self.stop) for i, at in spots]
        answers = self.write(run.texts(), places, ANSWER)
        slots = [place._replace(ids=(*self.stop, *self.slot)) for place in places]
        short = self.write(run.texts(), slots, LONGEST)
        for (i, at), answer, value in zip(spots, answers, short, strict=True):
            ids = [*run.free[i][:at], *self.stop, *answer.ids]
            right = self.examiner.judge(run.asked[i], ids).right
            found[i]["probes"].append({"at": at, "right": right} | self._summary(answer, value))

    def _add_direct(self, asked: Sequence[Problem], found: list[dict[str, Any]]) -> None:
        prompts = self.examiner.prompts(asked, "hard")
        places = [Place(i, len(ids) - 1, (ids[-1],)) for i, ids in enumerate(prompts)]
        answers = self.write(prompts, places, ANSWER)
        slots = [place._replace(ids=(*place.ids, *self.slot)) for place in places]
        short = self.write(prompts, slots, LONGEST)
        for row, problem, answer, value in zip(found, asked, answers, short, strict=True):
            right = self.examiner.judge(problem, answer.ids).right
            row["direct"] = {"right": right} | self._summary(answer, value)

    def write(
        self, texts: Sequence[list[int]], places: Sequence[Place], limit: int
    ) -> list[Branch]:
        """What the model writes at each place, greedily."""
        return branches(self.network, texts, places, limit, self.stops)

    def ends(self, thought: Sequence[int]) -> list[int]:
        """Where a probe may come: behind so many tokens."""
        schedule = ProbeSchedule(ProbeRule(1, 1, 1.0, ()))
        places = []
        for at, token in enumerate(thought, 1):
            schedule.read(self.tokens.id_to_bytes(token))
            if schedule.due(at):
                places.append(at)
        return places

    def _summary(self, answer: Branch, short: Branch) -> dict[str, Any]:
        """What every rule needs to know of a probe: its short answer, and how sure all is."""
        pieces: list[bytes] = []
        ended = False
        for token in short.ids:
            if token in self.tokens.eos_ids:
                ended = True
                break
            pieces.append(self.tokens.id_to_bytes(token))
            if is_complete(b"".join(pieces).decode("utf-8", "replace")):
                ended = True
                break
        chances = short.probabilities[: len(pieces)]
        value = short_answer(pieces, chances) if ended else None
        return {
            "value": None if value is None else value.value,
            "certainty": 0.0 if value is None else round(value.certainty, 5),
            "all": round(min(chances, default=0.0), 5),
            "cost": len(self.slot) + len(pieces),
            "answer": len(pieces),
            "entropy": round(answer.entropy, 4),
        }
