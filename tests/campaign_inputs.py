"""What a program may hand over in Python, for tests.campaign: options, messages, ids, streams."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import qwen3_mlx
from qwen3_mlx.checkpoint import load_network
from qwen3_mlx.checkpoint.check import check
from qwen3_mlx.errors import Qwen3Error
from qwen3_mlx.events import Answer, Thinking, ToolCall
from qwen3_mlx.options import GenerationOptions
from tests.corpus.mutate import ODD, mutate, mutate_json, read_source

Run = Callable[[random.Random], None]
HUGE = (
    10**4400,
    -(10**4400),
    2**31,
    2**63,
    2**64,
    -(2**31) - 1,
    float("nan"),
    float("inf"),
    1e-320,
)
VALUES: tuple[Any, ...] = (
    *ODD,
    *HUGE,
    1e-320,
    b"x",
    {1, 2},
    object(),
    range(3),
    1 + 2j,
    True,
    5,
    64,
)
MESSAGES: list[Any] = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "What is 2 + 2?"},
    {"role": "assistant", "content": "4", "reasoning_content": "2 + 2"},
    {"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"a": [1]}}]},
    {"role": "tool", "content": "x", "tool_call_id": "1"},
    {"role": "user", "content": "And now?"},
]
TOOL = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}
TOOLS = [{"type": "function", "function": TOOL}]


def options(work: Path) -> Run:
    """A turn with a few options of any value."""
    model = qwen3_mlx.load("demo")
    names = [one.name for one in fields(GenerationOptions)]

    def run(rng: random.Random) -> None:
        odd = {name: rng.choice(VALUES) for name in rng.sample(names, rng.randint(1, 3))}
        GenerationOptions(**odd)
        model.generate("hi", **(odd | {"max_tokens": 2}))  # a hot draw might never end

    return run


def load_options(work: Path) -> Run:
    """A model loaded with odd options."""
    names = ("name", "context", "kv_bits", "kv_window", "kv_sinks", "draft", "adapter", "force")

    def run(rng: random.Random) -> None:
        odd = {name: rng.choice(VALUES) for name in rng.sample(names, rng.randint(1, 3))}
        qwen3_mlx.load(**odd).generate("hi", max_tokens=2)

    return run


def messages(work: Path) -> Run:
    """Conversations and tools whose values have been changed."""
    model = qwen3_mlx.load("demo")

    def run(rng: random.Random) -> None:
        said = mutate_json(rng.sample(MESSAGES, rng.randint(1, len(MESSAGES))), rng)
        tools = mutate_json(TOOLS, rng) if rng.random() < 0.5 else None
        model.generate(said, tools=tools, max_tokens=2)

    return run


def ids(work: Path) -> Run:
    """Token ids of any kind, to the tokenizer and to the network."""
    model = qwen3_mlx.load("demo")
    known = model.tokenizer.encode("What is 2 + 2?")

    def run(rng: random.Random) -> None:
        given = [rng.choice((*VALUES, *known)) for _ in range(rng.randint(0, 5))]
        reads: tuple[Callable[[], object], ...] = (
            lambda: model.tokenizer.decode(given),
            lambda: model.tokenizer.id_to_bytes(rng.choice(VALUES)),
            lambda: model.generate("hi", max_tokens=2, bad_token_ids=given),
            lambda: model.generate("hi", max_tokens=2, logit_bias=dict.fromkeys(range(3), given)),
        )
        rng.choice(reads)()

    return run


def streams(work: Path) -> Run:
    """A stream of tokens in other pieces: the same text, thought and calls."""
    from qwen3_mlx.text.mode import Mode
    from qwen3_mlx.text.splitter import Splitter

    tokenizer = qwen3_mlx.load("demo").tokenizer

    def read(pieces: list[list[int]]) -> list[tuple[str, str]]:
        """The kinds of the events and their text, neighbours of a kind as one."""
        splitter = Splitter(tokenizer, Mode(True, None, True))
        events = [event for piece in pieces for event in splitter.push(piece)] + splitter.flush()
        found: list[tuple[str, str]] = []
        for event in events:
            kind = type(event).__name__
            text = event.text if isinstance(event, (Thinking, Answer)) else call_text(event)
            if found and found[-1][0] == kind:
                text = found.pop()[1] + text
            found.append((kind, text))
        return found

    def run(rng: random.Random) -> None:
        parts = ["<think>", "</think>", "<tool_call>", "</tool_call>", "\n", "é🎉", "{", '"a"', "x"]
        text = "".join(rng.choice(parts) for _ in range(rng.randint(1, 30)))
        tokens = tokenizer.encode(text)
        cuts = sorted(rng.sample(range(len(tokens) + 1), min(3, len(tokens))))
        pieces = [tokens[a:b] for a, b in zip([0, *cuts], [*cuts, len(tokens)], strict=True)]
        assert read(pieces) == read([tokens]), "pieces change what is read"

    return run


def call_text(event: object) -> str:
    """A call without its id, which is new each time."""
    assert isinstance(event, ToolCall), event
    return f"{event.name} {event.arguments}\n"


def checkpoints(work: Path) -> Run:
    """A small checkpoint with one file changed: config, index, header or bytes."""
    golden = Path(__file__).parent / "golden" / "network"

    def run(rng: random.Random) -> None:
        folder = work / "mutant"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(golden / rng.choice(("dense-tied", "moe-no-norm", "sharded-dense")), folder)
        mutate(folder, rng)
        for reader in (load_network, read_source, check):
            try:
                reader(folder)
            except Qwen3Error:
                continue

    return run


INPUTS: dict[str, Callable[[Path], Run]] = {
    "options": options,
    "load-options": load_options,
    "messages": messages,
    "ids": ids,
    "streams": streams,
    "checkpoints": checkpoints,
}
