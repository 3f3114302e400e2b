"""The thread that works while nobody waits, and how a session uses it."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from qwen3_mlx import load
from qwen3_mlx.engine.background import BACKGROUND, Background, BackgroundJob
from qwen3_mlx.model import Qwen3
from tests.chat.conftest import until

LONG = "word " * 300
"""A system prompt of many steps."""


@pytest.fixture(scope="module")
def demo() -> Qwen3:
    return load("demo")


def test_any_turn_ends_it(demo: Qwen3, slow: list[int]) -> None:
    chat = demo.session(system=LONG)
    chat.warm_in_background()
    until(slow, 1)
    next(demo.stream("hi", thinking=False))
    assert BACKGROUND.wait(0)


def test_sending_ends_it_before_the_first_event_is_asked_for(demo: Qwen3, slow: list[int]) -> None:
    """So that its last step passes while the message is rendered, and nothing waits for it."""
    chat = demo.session(system=LONG)
    for begin in (lambda: chat.send("hi"), chat.retry):
        chat.cache.truncate(0)
        slow.clear()
        chat.warm_in_background()
        until(slow, 1)
        begin()
        assert BACKGROUND.wait(10)
        assert sum(slow) < 200  # far from done


def test_warming_waits_for_the_one_under_way(demo: Qwen3, slow: list[int]) -> None:
    """And does the rest of its work: two at once would leave it undone."""
    chat = demo.session(system="word " * 60)
    chat.warm_in_background()
    until(slow, 1)
    before = sum(slow)
    assert chat.warm() > 0
    assert before < len(chat.cache.tokens) == sum(slow)
    assert chat.warm() == 0


def test_it_warms_what_the_conversation_was(demo: Qwen3, monkeypatch: pytest.MonkeyPatch) -> None:
    """An edit while it begins is no half of it: the next turn's rendering sees all of the edit."""
    jobs: list[BackgroundJob] = []
    monkeypatch.setattr(BACKGROUND, "run", jobs.append)
    chat = demo.session(system="The first.")
    chat.warm_in_background()
    chat.messages[0]["content"] = "The second."
    chat.messages.append({"role": "user", "content": "hi"})
    for job in jobs:
        job(lambda: False)
    held = demo.tokenizer.decode(chat.cache.tokens)
    assert "The first." in held and "hi" not in held


@pytest.fixture
def background() -> Iterator[Background]:
    own = Background()
    yield own
    own.stop()


def test_a_new_job_replaces_the_old(background: Background) -> None:
    done: list[str] = []
    begun = threading.Event()

    def first(stopped: Any) -> None:
        begun.set()
        while not stopped():
            time.sleep(0.001)
        done.append("given up")

    background.run(first)
    assert begun.wait(10)
    background.run(lambda stopped: done.append("second" if not stopped() else "?"))
    assert background.wait(10)
    assert done == ["given up", "second"]


def test_a_job_that_fails_costs_nothing(background: Background) -> None:
    done: list[int] = []
    background.run(lambda _stopped: 1 / 0)
    assert background.wait(10)
    background.run(lambda _stopped: done.append(1))
    assert background.wait(10) and done == [1]


def test_leaving_does_not_wait_for_it() -> None:
    """The program ends well in the middle of a job that would take minutes."""
    code = """
import time
from qwen3_mlx import load
from qwen3_mlx.engine import warm
inner = warm.prefill
def crawl(*arguments):
    time.sleep(0.2)
    return inner(*arguments)
warm.prefill = crawl
chat = load("demo").session(system="word " * 2000)
chat.warm_in_background()
time.sleep(0.5)
"""
    began = time.monotonic()
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stderr) == (0, "")
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("comes", ["before", "after"])
def test_an_interrupt_while_a_job_is_handed_over_leaves_nobody_waiting(comes: str) -> None:
    background, ran = Background(), list[bool]()
    background.run(lambda stopped: None)
    jobs: Any = background._jobs

    class Interrupted:
        get = jobs.get

        def put(self, job: Any) -> None:
            if comes == "after":
                jobs.put(job)
            raise KeyboardInterrupt

    background._jobs = Interrupted()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        background.run(lambda stopped: ran.append(stopped()))
    background._jobs = jobs
    assert background.wait(0)
    background.stop()
    background.run(lambda stopped: ran.append(stopped()))
    assert background.wait(10)
    assert ran == [True, False][comes == "before" :], "told to end at its first step"
