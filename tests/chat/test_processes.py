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


def test_a_fork_behind_use_is_refused_and_names_spawn() -> None:
    """Without the refusal the child hangs. OpenBLAS's own handler can hang in fork: off here."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"QWEN3_MLX_BLAS": "off"},
    )
    assert done.stdout.strip() == "12", done.stderr


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
