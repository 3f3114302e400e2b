"""Held-out problems, their prompts, and how a greedy model does on them in every mode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from tokenizers import Tokenizer

from qwen3_mlx.nn.transformer import Qwen3Network
from qwen3_mlx.options.thinking_budget import STOP_TEXT
from training.data.chat import FAMILIES, Conversation, Message, Mode, prompt
from training.data.problem import Problem
from training.decode import greedy
from training.tokenizer import token_id

THOUGHT = 640
"""Tokens of thinking and answer at most; the longest thought of the data is far below."""
ANSWER = 96


@dataclass(frozen=True, slots=True)
class Outcome:
    """The model's continuation of one problem."""

    thinking_tokens: int
    answer: str
    right: bool
    text: str
    """Thought and answer together."""


def problems(family: str, count: int, seed: str) -> list[Problem]:
    """`count` different held-out problems of a family."""
    rng = Random(f"{seed} {family}")
    found: dict[str, Problem] = {}
    while len(found) < count:
        problem = FAMILIES[family].make(rng, held_out=True)
        found.setdefault(FAMILIES[family].key(problem.spec), problem)
    return list(found.values())


class Examiner:
    """A model under examination: greedy, batched, by token ids."""

    def __init__(self, network: Qwen3Network, tokenizer: Tokenizer, at_once: int = 512) -> None:
        self._network, self._tokenizer, self._at_once = network, tokenizer, at_once
        self._stop_text = tokenizer.encode(STOP_TEXT).ids
        self._close = token_id(tokenizer, "</think>")
        self._stop = frozenset(
            token_id(tokenizer, name) for name in ("<|im_end|>", "<|endoftext|>")
        )

    def prompts(
        self, asked: Sequence[Problem], mode: Mode, history: Sequence[Message] = ()
    ) -> list[list[int]]:
        """The rendered prompts, each after the same `history`."""
        talks = [
            Conversation([*history, {"role": "user", "content": p.question}], "", "", mode)
            for p in asked
        ]
        return [e.ids for e in self._tokenizer.encode_batch([prompt(talk) for talk in talks])]

    def write(self, prompts: Sequence[Sequence[int]], limit: int) -> list[list[int]]:
        """Greedy continuations."""
        return greedy(self._network, prompts, limit, self._stop, self._at_once)

    def budgeted(
        self, prompts: Sequence[Sequence[int]], written: Sequence[list[int]], budget: int
    ) -> list[list[int]]:
        """What the documented two-call procedure gives, from the unlimited runs in `written`.

        Greedy decoding repeats itself, so the first call's tokens are the first `budget` tokens of
        the unlimited run; where they hold neither ``</think>`` nor the end, the stop text follows.
        """
        results, again = list(written), []
        for i, ids in enumerate(written):
            begun = ids[:budget]
            if self._close not in begun and not self._stop.intersection(begun):
                again.append((i, begun + self._stop_text))
        ends = self.write([[*prompts[i], *begun] for i, begun in again], ANSWER)
        for (i, begun), end in zip(again, ends, strict=True):
            results[i] = begun + end
        return results

    def judge(self, problem: Problem, ids: list[int]) -> Outcome:
        """The outcome of one continuation; without a ``</think>`` all of it is the answer."""
        at = len(ids) - 1 - ids[::-1].index(self._close) if self._close in ids else -1
        said = [token for token in ids[at + 1 :] if token not in self._stop]
        answer = self._tokenizer.decode(said, skip_special_tokens=False).strip()
        finished = bool(ids) and ids[-1] in self._stop
        right = FAMILIES[problem.family].grade(problem.spec, answer) == problem.result
        text = self._tokenizer.decode(ids, skip_special_tokens=False)
        return Outcome(max(at, 0), answer, right and finished and "<think>" not in answer, text)
