"""Work beside turns that ends before its first step: whoever asked for it hears of it."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from qwen3_mlx.engine.side_work import SideWork
from qwen3_mlx.errors import BusyError
from qwen3_mlx.nn import trial
from qwen3_mlx.serve import desk
from qwen3_mlx.serve.api_error import ApiError
from qwen3_mlx.serve.desk import LONG_BODY
from qwen3_mlx.serve.kernel_trial import KernelTrial
from qwen3_mlx.text import Tokenizer
from tests.serve.server import Server


class Computing:
    """Stands for the scheduler and its thread; a step is taken when the test says so."""

    alive, running = True, 0
    prefixes = None
    counts = SimpleNamespace(steps=0)

    def __init__(self, most: int = 4) -> None:
        self.side = SideWork(most)
        self.last_round: Callable[[], object] = lambda: None
        self.desk = desk.Desk(self, self, self)  # type: ignore[arg-type]

    def beside(self, work: Generator[object]) -> None:
        self.side.add(work)

    def stop_all(self) -> None:
        self.side.close()

    def close(self, seconds: float) -> None:
        """The thread's last round."""
        self.last_round()


def answer() -> Generator[object, None, str]:
    yield
    return "done"


async def asked(computing: Computing, steps: int, end: bool) -> Any:
    asking = asyncio.create_task(computing.desk.beside(answer()))
    await asyncio.sleep(0)
    for _ in range(steps):
        computing.side.step()
    if end:
        computing.stop_all()
    return await asyncio.wait_for(asking, 5)


@pytest.mark.parametrize("steps", [0, 1])
def test_work_that_is_ended_tells_so_even_before_its_first_step(steps: int) -> None:
    with pytest.raises(ApiError) as found:
        asyncio.run(asked(Computing(), steps, end=True))
    assert found.value.status == 503


def test_work_that_may_go_on_gives_its_result() -> None:
    assert asyncio.run(asked(Computing(), 2, end=False)) == "done"


def test_work_that_is_refused_says_so_once() -> None:
    said = list[object]()

    async def refused() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: said.append(what))
        with pytest.raises(BusyError):
            await Computing(0).desk.beside(answer())
        gc.collect()
        await asyncio.sleep(0.01)
        gc.collect()

    asyncio.run(refused())
    assert not said


def test_an_end_waits_for_no_writing_that_was_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "WRITING_SECONDS", 10.0)
    computing = Computing()
    computing.desk.kept = object()  # type: ignore[assignment]
    monkeypatch.setattr(computing, "beside", lambda work: work.close())
    began = time.monotonic()
    computing.desk.keep_prefixes()
    assert time.monotonic() - began < 5


def test_an_end_leaves_no_child_process_of_a_trial_that_began_in_the_last_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended = list[str]()

    def proves(*_: object, skipped: Callable[[], bool]) -> None:
        while not skipped():
            time.sleep(0.001)
        time.sleep(0.3)  # ending the processes takes a moment
        ended.append("children")

    monkeypatch.setattr(trial, "wanted", lambda *_: True)
    monkeypatch.setattr(trial, "prove_beside", proves)
    computing: Any = Computing()
    runtime: Any = SimpleNamespace(network=None, cache_format=None, name="a model")
    kernels = KernelTrial(runtime, computing, lambda: computing.desk.draining)
    computing.desk.kernels, computing.last_round = kernels, kernels.step
    computing.desk.close()
    assert ended == ["children"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/tokenize", "/v1/messages/count_tokens"])
def test_a_long_prompt_that_is_read_keeps_nobody_waiting(
    server: Server, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """All prompts were made by one thread, which a text of 20 MB holds for seconds."""
    encode, go, begun = Tokenizer.encode, threading.Event(), threading.Event()

    def slow(self: Tokenizer, text: str) -> list[int]:
        if len(text) > LONG_BODY:
            begun.set()
            go.wait(60)
        return encode(self, text[:1000])

    monkeypatch.setattr(Tokenizer, "encode", slow)
    long = {"messages": [{"role": "user", "content": "a" * LONG_BODY}], "max_tokens": 2}
    with ThreadPoolExecutor(2) as pool:
        held = pool.submit(server.post, path, long)
        try:
            assert begun.wait(30)
            short = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
            for other in ("/v1/chat/completions", path):
                assert pool.submit(server.post, other, short).result(30).status == 200
        finally:
            go.set()
        assert held.result().status == 200
