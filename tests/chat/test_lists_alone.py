"""A list of turns computes in the caller's thread, with the same care as a single turn."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from qwen3_mlx import load
from qwen3_mlx.device import process_exit
from qwen3_mlx.engine.background import BACKGROUND


def test_a_list_stops_what_runs_in_the_background() -> None:
    def job(stopped: Callable[[], bool]) -> None:
        while not stopped():
            time.sleep(0.001)

    BACKGROUND.run(job)
    try:
        load("demo").generate_many(["hi"], max_tokens=2, thinking=False)
        assert BACKGROUND.wait(0)
    finally:
        BACKGROUND.stop()


def test_an_exit_waits_for_the_thread_that_computed_a_list() -> None:
    model = load("demo")
    lists = threading.Thread(
        target=lambda: model.generate_many(["hi"], max_tokens=2, thinking=False)
    )
    lists.start()
    lists.join()
    assert lists in process_exit._threads.values()
