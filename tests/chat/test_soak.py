"""Long days, compressed: turns, cancels, edits, switches of mode in flat memory."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import pytest

from qwen3_mlx.chat.session import ChatSession
from qwen3_mlx.engine.background import BACKGROUND
from qwen3_mlx.events import Done
from qwen3_mlx.model import Qwen3
from qwen3_mlx.nn.cache.full import KVCache
from qwen3_mlx.options import CacheFormat
from tests import tiny

DAYS = int(os.environ.get("QWEN3_SOAK_DAYS", "8"))
"""Of 11 turns each, for every kind of cache; docs/log.md has what 80 showed."""
KINDS = [CacheFormat(), CacheFormat(bits=8), CacheFormat(bits=4), CacheFormat(window=64)]


def turn(chat: ChatSession) -> None:
    """An ordinary one, to its end."""
    list(chat.send("one two"))


def cancelled(chat: ChatSession) -> None:
    """Stopped at its first event, if it has one before the end."""
    running = chat.send("three four five")
    for _ in running:
        running.interrupt("stop")


def abandoned(chat: ChatSession) -> None:
    """Left in the middle, as by a terminal that goes away."""
    running = chat.send("six")
    next(running)
    running.close()


def answered_now(chat: ChatSession) -> None:
    """The thinking cut by the user."""
    running = chat.send("seven")
    running.interrupt("answer")
    list(running)


def stopped_in_prefill(chat: ChatSession) -> None:
    """Between two chunks of a long prompt."""
    *_, done = chat.send("eight " * 20, prefill_chunk=16, on_progress=lambda *_: chat.interrupt())
    assert isinstance(done, Done) and done.finish_reason == "interrupted"


def edited(chat: ChatSession) -> None:
    """The last exchange taken back: the cache is trimmed by it."""
    del chat.messages[-2:]


def retried(chat: ChatSession) -> None:
    """Answered anew."""
    if any(message["role"] == "user" for message in chat.messages):
        list(chat.retry())


def switched(chat: ChatSession) -> None:
    """Thinking off for a turn."""
    list(chat.send("nine", thinking=False))


def budgeted(chat: ChatSession) -> None:
    """A budget that cuts."""
    list(chat.send("ten", thinking_budget=3, max_tokens=30, stop_text=" </think> "))


def warmed(chat: ChatSession) -> None:
    """The next prompt's beginning computed in the background."""
    chat.warm_in_background()
    assert BACKGROUND.wait(60)


DAY: list[Callable[[ChatSession], None]] = [
    *(turn, warmed, cancelled, switched, edited, turn, abandoned, retried, stopped_in_prefill),
    *(budgeted, warmed, answered_now, edited, turn, ChatSession.clear),
]


def resident() -> int:
    """Bytes of this process in memory; 0 where that can't be read."""
    file = Path("/proc/self/statm")
    return int(file.read_text().split()[1]) * 4096 if file.exists() else 0


@pytest.mark.parametrize("cache_format", KINDS, ids=str)
def test_memory_is_flat_over_a_long_day(
    cache_format: CacheFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(KVCache, "step", 16)
    talker = Qwen3(replace(tiny.runtime(8, head_dim=32), cache_format=cache_format))
    chat = talker.session(temperature=0.0, max_tokens=3)
    held, active, objects, rss = [], [], [], []
    for _ in range(DAYS):
        for deed in DAY:
            deed(chat)
        list(chat.send("the day's end"))
        gc.collect()
        held.append(chat.cache.nbytes)
        chat.cache.clear()
        active.append(mx.get_active_memory())
        objects.append(len(gc.get_objects()))
        rss.append(resident())
    assert len(set(active[1:])) == 1  # to the byte
    if (
        cache_format.window is None
    ):  # whose sizes depend on the background's steps, and so on the clock
        assert len(set(held)) == 1
    assert max(objects[DAYS // 2 :]) - objects[DAYS // 2] <= 20
    # glibc and MLX's pool keep what was freed; a leak of one cache a turn would be 20 MB more
    assert rss[-1] - rss[DAYS // 2] <= 8 * 2**20


def test_sessions_give_their_memory_back() -> None:
    """Forty conversations, one after the other."""
    talker = Qwen3(tiny.runtime(8))
    active = []
    for _ in range(40):
        chat = talker.session(temperature=0.0, max_tokens=3)
        list(chat.send("hello"))
        chat.warm_in_background()
        assert BACKGROUND.wait(60)
        del chat
        gc.collect()
        active.append(mx.get_active_memory())
    assert len(set(active[2:])) == 1
