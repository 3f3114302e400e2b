"""Events on their way to clients: the bytes of their pieces, and who is woken for them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from qwen3_mlx.events import Answer
from qwen3_mlx.model import Qwen3
from qwen3_mlx.serve import desk
from qwen3_mlx.serve.ask import Ask
from qwen3_mlx.serve.chat_completions import Writer
from qwen3_mlx.serve.desk import Desk
from qwen3_mlx.serve.sse import Framed, data
from tests.serve.server import serving

TEXTS = ["", " a", '"quoted" \\ \n\t\x00\x7f', "né 中 😀", "\ud83d", "\u2028", "data: x\n\n"]


@pytest.mark.parametrize("text", [*TEXTS, Framed.HERE, f"{Framed.HERE}{Framed.HERE}"])
def test_a_framed_text_is_the_event_around_it(text: str) -> None:
    event = lambda said: {"model": f'm{Framed.HERE}"', "choices": [{"delta": {"content": said}}]}  # noqa: E731
    framed = Framed(event(Framed.HERE))
    assert framed.data(text) == data(event(text))
    assert framed.data(text) == data(event(text)), "it can be said twice"


@pytest.mark.parametrize("text", TEXTS)
def test_a_piece_of_an_answer_is_the_chunk_that_it_was(text: str) -> None:
    writer = Writer("chatcmpl-1", 'the "model"', Ask("any", [], {}, stream=True))
    (piece,) = writer.take(Answer(text))
    found = json.loads(piece.removeprefix(b"data: "))
    assert piece == data(found)
    said = text.encode("utf-8", "replace").decode()
    one = {"index": 0, "delta": {"content": said}, "logprobs": None, "finish_reason": None}
    assert found["choices"] == [one]
    assert list(found) == ["id", "object", "created", "model", "choices"]


class Loop:
    """Takes calls from other threads."""

    def __init__(self) -> None:
        self.calls: list[tuple[Callable[..., object], tuple[Any, ...]]] = []

    def call_soon_threadsafe(self, act: Callable[..., object], *given: Any) -> None:
        self.calls.append((act, given))


class Nobody:
    alive = True


def test_a_round_wakes_all_its_listeners_by_one_call(demo: Qwen3) -> None:
    one_desk, loop = Desk(demo, Nobody(), Nobody()), Loop()  # type: ignore[arg-type]
    one_desk._loop = loop  # type: ignore[assignment]
    heard = [asyncio.Event() for _ in range(8)]
    for one in heard:
        one_desk.hear(one)
    one_desk._wake()
    one_desk._wake()
    assert len(loop.calls) == 1, "and none where nobody has heard anything"
    ((act, given),) = loop.calls
    act(*given)
    assert all(one.is_set() for one in heard)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_rounds_wake_who_listens_and_no_timer_is_needed(
    demo: Qwen3, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    """By timers alone an answer would come in bursts of half a second."""
    monkeypatch.setattr(desk, "LOOK_SECONDS", 600.0)
    monkeypatch.setattr(desk, "SILENCE_SECONDS", 600.0)
    asked = {"messages": [{"role": "user", "content": "What is 2 + 2?"}], "stream": stream}
    with serving(demo) as server, server.begin("/v1/chat/completions", asked) as connection:
        connection.settimeout(30)
        found = b""
        while piece := connection.recv(65_536):
            found += piece
    assert b'"finish_reason":"stop"' in found
