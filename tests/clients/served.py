"""A server whose model says what a test tells it to, and that remembers what every turn took."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from qwen3_mlx.model import Qwen3
from qwen3_mlx.serve.desk import Open
from tests.scripted import answer
from tests.serve.server import Server, serving, wait_for

Json = dict[str, Any]
Reply = Callable[[str], str]

PATIENCE_S = 300.0
"""Only a test that fails waits so long: a long prompt takes its time on a busy machine."""
THOUGHT = "<think>\nTwo and two.\n</think>\n\n"


@dataclass(frozen=True)
class Took:
    """What one turn read and computed, in tokens."""

    id: str
    prompt: int
    cached: int
    text: str
    """The prompt: turns end in another order than they begin."""

    @property
    def computed(self) -> int:
        return self.prompt - self.cached


@dataclass
class Served:
    """A server, the reply that its model is to give, and its turns so far."""

    server: Server
    decode: Callable[[Sequence[int]], str]
    reply: Reply = lambda prompt: "It is 4."
    prompts: list[str] = field(default_factory=list)
    """What the model was given, from the oldest turn to the newest."""
    ended: list[Took] = field(default_factory=list)

    @property
    def turns(self) -> list[Took]:
        """All that were asked for; the last one ends a moment after its client has its end."""
        wait_for(lambda: len(self.ended) >= len(self.prompts), PATIENCE_S)
        return self.ended

    @property
    def with_tools(self) -> list[Took]:
        """Those of a conversation that offers tools, from its shortest prompt to its longest.

        Asked again for the same, as clients do that lost patience, is one; and who has gone before
        the model began has asked for none.
        """
        first = {one.text: one for one in reversed(self.turns) if one.text in self.prompts}
        return sorted((t for t in first.values() if "<tools>" in t.text), key=lambda t: t.prompt)

    @property
    def url(self) -> str:
        """Without a path."""
        return f"http://127.0.0.1:{self.server.port}"

    def say(self, reply: str | Reply) -> None:
        """From now on every turn says this, and nothing of the past is remembered."""
        self.reply = reply if callable(reply) else lambda prompt: reply
        for past in (
            self.turns,
            self.prompts,
        ):  # the turns first: that waits for the last one's end
            past.clear()

    def asked(self, prompt: str) -> str:
        """What the model says to `prompt`."""
        self.prompts.append(prompt)
        said = self.reply(prompt)
        thinks_not = prompt.endswith("</think>\n\n")
        return said.rpartition("</think>\n\n")[2] if thinks_not else said

    def over(self, opened: Open) -> None:
        """A turn ended; whoever hears of it first has it forgotten, and the other again."""
        if any(one.id == opened.id for one in self.ended):
            return
        turn, prompt = opened.turn, opened.turn.request.prompt
        text = self.decode(prompt)
        self.ended.append(Took(opened.id, len(prompt), turn.cached_tokens, text))


@contextmanager
def scripted_server(model: Qwen3) -> Iterator[Served]:
    """Serve `model`, which says "It is 4." until it is told otherwise."""
    with pytest.MonkeyPatch.context() as patch, serving(model) as server:
        served = Served(server, model.tokenizer.decode)
        answer(patch, model, served.asked)
        forget = server.desk.forget

        def forgotten(opened: Open) -> None:
            forget(opened)
            served.over(opened)

        patch.setattr(server.desk, "forget", forgotten)
        yield served


def call(name: str, **arguments: Any) -> str:
    """A tool call as Qwen3 writes it."""
    said = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{said}\n</tool_call>"


def results(prompt: str) -> list[str]:
    """What tools gave in the turn of the user that `prompt` is in."""
    turns = prompt.split("<|im_start|>user\n")
    found: list[str] = []
    for turn in turns[1:]:
        body = turn.partition("<|im_end|>")[0]
        if not body.startswith("<tool_response>\n"):
            found = []
            continue
        parts = body.split("<tool_response>\n")[1:]
        found += [part.partition("\n</tool_response>")[0] for part in parts]
    return found
