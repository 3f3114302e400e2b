"""Models and processes: forked, pickled, dropped half way."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import subprocess
import sys
import weakref
from collections.abc import Callable

import pytest

from qwen3_mlx.errors import BackendError
from qwen3_mlx.model import Qwen3
from tests import tiny

FORK = """
import os, sys
from qwen3_mlx import load
from qwen3_mlx.errors import BackendError
model = load("demo")
model.generate("hi", max_tokens=2)
child = os.fork()
if child == 0:
    refused = 0
    for attempt in (lambda: model.generate("hi", max_tokens=2), lambda: load("demo")):
        try:
            attempt()
        except BackendError as error:
            refused += "spawn" in str(error)
    os._exit(10 + refused)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def run(code: str) -> str:
    """What `code` prints; OpenBLAS's own handler can hang in fork, and is off."""
    environment = os.environ | {"QWEN3_MLX_BLAS": "off"}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, env=environment)
    assert not done.stderr.strip()
    return done.stdout.strip()


def test_a_fork_behind_use_is_refused_and_names_spawn() -> None:
    """Without the refusal the child hangs."""
    assert run(FORK) == "12"


EVERY_WAY = """
import os
from qwen3_mlx import Agent, load
from qwen3_mlx.errors import BackendError
model = load("demo")
session = model.session(thinking=False, max_tokens=2)
list(session.send("hi"))
begun = model.stream("hi", thinking=False)
next(begun)
ways = {
    "embed": lambda: model.embed(["a"]),
    "embed none": lambda: model.embed([]),
    "rerank": lambda: model.rerank("a", ["b"]),
    "generate_many": lambda: model.generate_many(["a"]),
    "send": lambda: session.send("a"),
    "retry": lambda: session.retry(),
    "warm": lambda: session.warm(),
    "warm_in_background": lambda: session.warm_in_background(),
    "read on": lambda: next(begun),
    "agent": lambda: Agent(model).run("a"),
}
if os.fork() == 0:
    import signal
    for name, way in ways.items():
        signal.alarm(20)
        try:
            way()
            print(name, "computed", flush=True)
        except BackendError as error:
            print(name, "refused" if "forked" in str(error) else error, flush=True)
    os._exit(0)
os.wait()
"""

EXIT = """
import os, sys, threading
from qwen3_mlx.engine.background import BACKGROUND
asked = threading.Event()
BACKGROUND.run(lambda stopped: (asked.set(), threading.Event().wait(5)))
asked.wait()
child = os.fork()
if child == 0:
    import signal
    signal.alarm(20)
    sys.exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
os._exit(0)
"""


def test_every_way_to_compute_is_refused_behind_a_fork() -> None:
    lines = run(EVERY_WAY).splitlines()
    assert len(lines) == 10, lines
    assert [line for line in lines if not line.endswith(" refused")] == []


def test_a_child_forked_while_a_job_runs_can_exit() -> None:
    assert run(EXIT) == "7"


def test_a_model_says_what_to_do_in_place_of_pickling() -> None:
    with pytest.raises(BackendError, match="every process has its own"):
        pickle.dumps(Qwen3(tiny.runtime(8)))


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_session_says_what_to_do_in_place_of_copying(
    duplicate: Callable[[object], object],
) -> None:
    """A shallow copy would compute in the cache of the first."""
    session = Qwen3(tiny.runtime(8)).session()
    for holder in (session, [session.send]):
        if holder is session or duplicate is not copy.copy:
            with pytest.raises(BackendError, match=r"save\(\) it"):
                duplicate(holder)


def test_a_turn_that_is_dropped_gives_its_cache_back_at_once() -> None:
    session = Qwen3(tiny.runtime(8)).session(max_tokens=20)
    events = session.send("one two three")
    next(events)
    cache = weakref.ref(session.cache)
    gc.disable()
    try:
        del events, session
        assert cache() is None
    finally:
        gc.enable()


def test_what_was_said_is_kept_where_the_session_outlives_its_turn() -> None:
    session = Qwen3(tiny.runtime(8)).session(max_tokens=5)
    for _ in session.send("one two three"):
        pass
    assert session.last_stats is not None
    assert [message["role"] for message in session.messages] == ["user", "assistant"]
