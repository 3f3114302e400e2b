"""What goes wrong while it computes ends what it must and no more, and says so in each dialect."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from qwen3_mlx.errors import OutOfMemoryError
from qwen3_mlx.model import Qwen3
from qwen3_mlx.serve import app
from tests.scripted import say
from tests.serve.asking import PATHS, body
from tests.serve.server import Server, events, rest, serving, wait_for

CHAT = PATHS["chat"]
every = pytest.mark.parametrize("dialect", [*PATHS, "completions"])
both = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


@pytest.fixture
def alone(demo: Qwen3, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of its own, to be broken; its model says the same for ever."""
    say(monkeypatch, demo, lambda _: "more and more ")
    with serving(demo) as server:
        yield server


def request(dialect: str, stream: bool) -> tuple[str, Any]:
    if dialect == "completions":
        return "/v1/completions", {"prompt": "hi", "max_tokens": 3000, "stream": stream}
    return PATHS[dialect], body(dialect, stream=stream)


def fail_after(server: Server, steps: int, error: Exception, monkeypatch: Any) -> None:
    """Make the step after so many more fail, whoever it belongs to."""
    original, left = server.scheduler._advance, [steps]

    def advance(task: Any, token: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise error
        original(task, token)

    monkeypatch.setattr(server.scheduler, "_advance", advance)


ERRORS = [
    (ZeroDivisionError("what somebody said"), 500),
    (RuntimeError("[metal::malloc] Unable to allocate 9 bytes"), 413),
    (OutOfMemoryError("out of memory at 9 tokens", hint="shorter"), 413),
]


@every
@both
@pytest.mark.parametrize(("error", "status"), ERRORS, ids=["bug", "malloc", "memory"])
def test_a_turn_that_fails_fails_alone_and_in_its_dialect(
    alone: Server,
    monkeypatch: pytest.MonkeyPatch,
    dialect: str,
    stream: bool,
    error: Exception,
    status: int,
) -> None:
    with monkeypatch.context() as patch:
        fail_after(alone, 6, error, patch)
        began = time.monotonic()
        got = alone.post(*request(dialect, stream))
        assert time.monotonic() - began < 10
    if not stream:
        assert got.status == status
        shown = got.json["error"]
    else:
        assert got.status == 200
        last = list(events(got.body.decode()))[-1]
        assert last.data != "[DONE]"
        if dialect == "responses":
            assert last.name == "response.failed"
            shown = last.data["response"]["error"]
        else:
            assert (last.name == "error") == (dialect == "messages")
            shown = last.data["error"]
    assert "somebody" not in shown["message"] and shown["message"]
    assert alone.post(CHAT, body("chat", max_tokens=3)).status == 200
    assert alone.get("/health").json["status"] == "ok"


def test_others_go_on_beside_one_that_fails(alone: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = (alone.begin(CHAT, body("chat", stream=True)) for _ in range(2))
    wait_for(lambda: alone.scheduler.running == 2)
    with monkeypatch.context() as patch:
        fail_after(alone, 5, ZeroDivisionError(), patch)
        wait_for(lambda: alone.scheduler.running == 1)
    computed = alone.scheduler.counts.generated_tokens
    wait_for(lambda: alone.scheduler.counts.generated_tokens > computed + 10)
    one.close()
    two.close()


@both
def test_an_error_that_is_nobodys_ends_the_running(
    alone: Server, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    one = alone.begin(CHAT, body("chat", stream=stream))
    before = alone.scheduler.counts.generated_tokens
    wait_for(lambda: alone.scheduler.counts.generated_tokens > before)
    with monkeypatch.context() as patch:
        patch.setattr(alone.scheduler, "_admit", lambda: 1 / 0)
        said = rest(one)
        assert b'"error"' in said and b"[DONE]" not in said
        assert (b" 500 " in said) != stream
        wait_for(lambda: alone.get("/health").status == 503)
        assert alone.get("/health").json["status"] == "degraded"
    wait_for(lambda: alone.get("/health").status == 200)
    assert alone.post(CHAT, body("chat", max_tokens=3)).status == 200
    assert alone.get("/health").json["faults"] >= 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@both
def test_a_dead_loop_is_seen(alone: Server, monkeypatch: pytest.MonkeyPatch, stream: bool) -> None:
    one = alone.begin(CHAT, body("chat", stream=stream))
    wait_for(lambda: alone.scheduler.running == 1)

    def die() -> None:
        raise SystemExit

    monkeypatch.setattr(alone.scheduler, "_admit", die)
    wait_for(lambda: not alone.desk.thread.alive)
    said = rest(one)
    assert b"restart" in said and (b" 503 " in said) != stream
    got = alone.get("/health")
    assert got.status == 503 and got.json["status"] == "stopped"
    for dialect, path in PATHS.items():
        began = time.monotonic()
        assert alone.post(path, body(dialect)).status == 503
        assert time.monotonic() - began < 20


def test_a_stuck_loop_is_seen(alone: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "HEALTH_SECONDS", 0.3)
    free = threading.Event()
    original = alone.scheduler._admit

    def stick() -> None:
        free.wait(20)
        original()

    monkeypatch.setattr(alone.scheduler, "_admit", stick)
    wait_for(lambda: alone.get("/health").json["status"] == "stuck")
    assert alone.get("/health").status == 503
    assert alone.get("/v1/models").status == 200
    free.set()
    wait_for(lambda: alone.get("/health").status == 200)


def test_what_never_fits_is_refused_with_the_sum(server: Server) -> None:
    long = "word " * 40_000
    for dialect, path in PATHS.items():
        for stream in (False, True):
            got = server.post(path, body(dialect, long, stream=stream))
            assert got.status == 400, "before the first byte of a stream"
            message = got.json["error"]["message"]
            assert "too long" in message and str(server.desk.model.config.context) in message
    got = server.post("/v1/completions", {"prompt": long})
    assert got.status == 400 and "too long" in got.json["error"]["message"]


def test_what_does_not_fit_into_memory_is_refused(
    alone: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def room(*_: Any) -> bool:
        raise OutOfMemoryError("not enough memory", got="9 GB", expected="8 GB", hint="less")

    monkeypatch.setattr(alone.scheduler._admission, "room", room)
    for dialect, path in PATHS.items():
        for stream in (False, True):
            got = alone.post(path, body(dialect, stream=stream))
            assert got.status == 413 and "9 GB" in got.json["error"]["message"]


def test_a_template_that_fails_is_a_400(server: Server) -> None:
    for wrong in (
        [],
        [{"role": "king", "content": "hi"}],
        [{"content": "hi"}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        ["hi"],
        [{"role": "assistant", "content": "hi"}],
        None,
        {},
        "hi",
    ):
        got = server.post(CHAT, {"messages": wrong})
        assert got.status == 400 and got.json["error"]["message"], wrong
    assert server.post(CHAT, body("chat", max_tokens=2)).status == 200
