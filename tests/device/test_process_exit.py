"""The exit of a process whose threads used MLX."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from qwen3_mlx.device import process_exit


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> dict[int, threading.Thread]:
    """The register, empty, with nothing added to the exit of the tests themselves."""
    monkeypatch.setattr(process_exit, "_threads", {})
    monkeypatch.setattr(process_exit, "_wait_at_exit", lambda: None)
    return process_exit._threads


def ended_thread() -> threading.Thread:
    thread = threading.Thread(target=process_exit.delay_exit_after_threads)
    thread.start()
    thread.join()
    return thread


def test_the_main_thread_is_not_waited_for(threads: dict[int, threading.Thread]) -> None:
    process_exit.delay_exit_after_threads()
    assert not threads


def test_the_exit_waits_until_the_system_has_ended_the_thread(
    threads: dict[int, threading.Thread], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended_thread()
    (number,) = threads
    monkeypatch.setattr(process_exit, "TASKS", tmp_path)
    (tmp_path / str(number)).mkdir()
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            (tmp_path / str(number)).rmdir()

    monkeypatch.setattr(process_exit.time, "sleep", sleep)
    process_exit.wait_for_ending_threads()
    assert len(waits) == 3


def test_a_thread_that_still_runs_and_one_that_is_gone_are_not_waited_for(
    threads: dict[int, threading.Thread], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(seconds: float) -> None:
        raise AssertionError("waited")

    go_on, used = threading.Event(), threading.Event()

    def work() -> None:
        process_exit.delay_exit_after_threads()
        used.set()
        go_on.wait()

    running = threading.Thread(target=work)
    running.start()
    used.wait()
    threads[2**40] = ended_thread()  # no thread of the system's has this number
    monkeypatch.setattr(process_exit.time, "sleep", refuse)
    for number, thread in list(threads.items()):
        if thread is not running and number != 2**40:
            del threads[number]  # may be on its way out
    process_exit.wait_for_ending_threads()
    go_on.set()
    running.join()


def test_threads_that_are_gone_are_forgotten(threads: dict[int, threading.Thread]) -> None:
    threads[2**40] = ended_thread()
    ended_thread()
    assert 2**40 not in threads
