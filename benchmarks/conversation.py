"""A conversation of twenty turns with thinking: what each turn computes, and how long it takes.

    python -m benchmarks.conversation

Three sessions of the bundled demo answer the same messages under the same seed, turn by turn in a
shuffled order: with the cache brought up to date between turns (`zero-miss`), with the longest
common prefix only (`prefix`: thoughts make it miss the last answer), and with the cache emptied
before every turn (`off`). Times run from the message to the end of its answer. What is computed
while the answer is read is reported as `between`, and not part of a turn. Three rows: messages of
one line; messages that carry a pasted paragraph each; and messages of one line behind a document,
as `--system-file` gives.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks.record import write
from qwen3_mlx import Reply, load
from qwen3_mlx.chat.session import ChatSession
from qwen3_mlx.model import Qwen3

TURNS = 20
DOCUMENT = "The meeting is on Monday at nine. Bring the list of names, and two copies. " * 60
WAYS = ("zero-miss", "prefix", "off")


SENTENCES = (
    "The train from the north was forty minutes late again, and nobody could say why.",
    "We moved the boxes to the second floor because the cellar is damp in November.",
    "Please ask the printer for two hundred copies, on the thicker paper if they have it.",
    "The list that you sent has three names on it that I can't find anywhere.",
    "In the morning there were twelve people at the door, in the afternoon only four.",
    "The old contract ends in March, so a new one should be ready before that.",
    "I have put the key where it always is, and the bill on top of the table.",
    "What the new heating costs is not clear yet; the offer is valid for two weeks.",
    "Nobody wrote down what was said about the garden, which is a pity.",
    "The second invoice is higher than the first because of the extra day.",
)


def question(turn: int) -> str:
    """One line, with a short thought."""
    return f"What is {12 + 7 * turn} + {30 + turn}?"


def pasted(turn: int) -> str:
    """A paragraph of some 75 words, another one each time, and a question behind it."""
    return " ".join([*random.Random(turn).sample(SENTENCES, 5), question(turn)])


class Talk:
    """One of the sessions, and its counts."""

    def __init__(
        self, model: Qwen3, way: str, system: str | None, message: Callable[[int], str]
    ) -> None:
        self.way, self.message = way, message
        self.chat: ChatSession = model.session(system=system, thinking_budget=64)
        self.rows: list[dict[str, Any]] = []
        if way == "zero-miss":
            self.chat.warm()

    def turn(self, number: int) -> None:
        """Send one message; note its seconds and computed tokens."""
        if self.way == "off":
            self.chat.cache.truncate(0)
        began = time.perf_counter()
        stats = Reply.from_events(self.chat.send(self.message(number), seed=number)).stats
        total, warmed = time.perf_counter() - began, 0.0
        if self.way == "zero-miss":
            began = time.perf_counter()
            self.chat.warm()
            warmed = time.perf_counter() - began
        self.rows.append(
            {
                "prompt": stats.prompt_tokens,
                "computed": stats.prompt_tokens - stats.cached_tokens,
                "generated": stats.thinking_tokens + stats.answer_tokens,
                "ttft_s": stats.ttft_s,
                "total_s": total,
                "between_s": warmed,
            }
        )

    def sums(self) -> dict[str, float]:
        """The sum of each column."""
        return {key: round(sum(row[key] for row in self.rows), 3) for key in self.rows[0]}


def measure(
    model: Qwen3, message: Callable[[int], str], system: str | None = None
) -> dict[str, Any]:
    """The three sessions, and the ratios of their sums to those of `zero-miss`."""
    talks = [Talk(model, way, system, message) for way in WAYS]
    for number in range(TURNS):
        for talk in random.Random(number).sample(talks, len(talks)):
            talk.turn(number)
    zero = talks[0]
    own = [
        len(model.tokenizer.encode(model.template.render([{"role": "user", "content": text}])))
        for text in map(message, range(TURNS))
    ]
    sums = {talk.way: talk.sums() for talk in talks}
    return {
        "message_tokens": own,
        "only_the_new_turn": [row["computed"] for row in zero.rows] == own,
        "said_the_same": all(talk.chat.messages == zero.chat.messages for talk in talks),
        "sums": sums,
        "ratios": {
            way: {
                key: round(sums[way][key] / sums["zero-miss"][key], 2)
                for key in ("computed", "ttft_s", "total_s")
            }
            for way in WAYS[1:]
        },
        "turns": {talk.way: talk.rows for talk in talks},
    }


def main() -> None:
    model = load("demo")
    model.generate("hi")
    results = {
        "one line": measure(model, question),
        "a paragraph": measure(model, pasted),
        "one line behind a document": measure(model, question, DOCUMENT),
    }
    for name, result in results.items():
        print(
            f"{name}: every turn computed its own message only: {result['only_the_new_turn']},"
            f" {statistics.median(result['message_tokens']):.0f} tokens; all said the same:"
            f" {result['said_the_same']}"
        )
        for way, sums in result["sums"].items():
            print(f"  {way:10}", "  ".join(f"{key} {value:g}" for key, value in sums.items()))
        for way, ratios in result["ratios"].items():
            print(f"  {way} / zero-miss:", "  ".join(f"{k} {v} ×" for k, v in ratios.items()))
    print(write("conversation", results))


if __name__ == "__main__":
    main()
