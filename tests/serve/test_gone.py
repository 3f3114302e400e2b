"""Clients that go away, read slowly, or come too many: work stops, waits, or is refused."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from qwen3_mlx.chat import turns
from qwen3_mlx.engine import scheduler as engine
from qwen3_mlx.model import Qwen3
from qwen3_mlx.serve import connection, desk
from tests.scripted import say
from tests.serve.asking import PATHS, body
from tests.serve.server import Server, events, rest, serving, wait_for

CHAT = PATHS["chat"]
every = pytest.mark.parametrize("dialect", [*PATHS, "completions"])
both = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


@pytest.fixture
def endless(demo: Qwen3, monkeypatch: pytest.MonkeyPatch) -> None:
    say(monkeypatch, demo, lambda _: "more and more ")


def request(dialect: str, stream: bool, question: str = "hi") -> tuple[str, Any]:
    if dialect == "completions":
        return "/v1/completions", {"prompt": question, "max_tokens": 3000, "stream": stream}
    return PATHS[dialect], body(dialect, question, stream=stream)


@every
@both
def test_who_goes_stops_the_work(server: Server, endless: None, dialect: str, stream: bool) -> None:
    gone, counts = server.desk.metrics.gone, server.scheduler.counts
    one = server.begin(*request(dialect, stream))
    before = counts.generated_tokens
    wait_for(lambda: counts.generated_tokens > before + 5)
    one.close()
    wait_for(lambda: not server.scheduler.busy, 5)
    assert server.desk.metrics.gone == gone + 1 and server.desk.busy == 0
    computed = counts.generated_tokens
    time.sleep(0.05)
    assert counts.generated_tokens == computed


def test_who_goes_at_any_moment_is_missed_never(server: Server, endless: None) -> None:
    """Also in the very moment in which a token comes: a wait must not swallow its cancellation."""
    for n in range(40):
        before = server.scheduler.counts.generated_tokens
        one = server.begin(*request("chat", n % 2 == 0))
        wait_for(lambda least=before + n % 7: server.scheduler.counts.generated_tokens > least)
        one.close()
        wait_for(lambda: not server.scheduler.busy, 5)


@both
def test_who_goes_while_the_prompt_is_read_stops_that(server: Server, stream: bool) -> None:
    long = f"{'Sort 5, 3 and 1 please. ' * 330}{stream}"
    counts = server.scheduler.counts
    read = counts.prompt_tokens
    one = server.begin(*request("chat", stream, long))
    wait_for(lambda: counts.prompt_tokens > read)
    said = counts.generated_tokens
    one.close()
    wait_for(lambda: not server.scheduler.busy)
    assert counts.generated_tokens - said < 5


def test_who_goes_while_waiting_never_runs(demo: Qwen3, endless: None) -> None:
    with serving(demo, parallel=1) as server:
        first = server.begin(CHAT, body("chat", stream=True), read=300)
        others = [server.begin(*request("chat", stream)) for stream in (False, True)]
        wait_for(lambda: server.scheduler.waiting == 2)
        for one in others:
            one.close()
        wait_for(lambda: server.scheduler.waiting == 0)
        assert server.scheduler.running == 1
        first.close()
        wait_for(lambda: not server.scheduler.busy)


def test_half_a_close_is_no_goodbye_and_a_reset_is(server: Server, endless: None) -> None:
    import socket
    import struct

    one = server.begin(CHAT, body("chat", stream=True), read=300)
    linger = struct.pack("ii", 1, 0)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    one.close()  # as a reset
    wait_for(lambda: not server.scheduler.busy, 5)
    assert server.get("/health").status == 200


def test_the_next_turn_finds_what_an_abandoned_one_computed(server: Server, endless: None) -> None:
    long = "Please sort 9, 8, 7, 6, 5, 4, 3, 2, 1 and say hello to everybody. " * 6
    before = server.scheduler.counts.generated_tokens
    one = server.begin(*request("chat", True, long))
    wait_for(lambda: server.scheduler.counts.generated_tokens > before)
    one.close()
    wait_for(lambda: not server.scheduler.busy)
    got = server.ok(CHAT, body("chat", long, max_tokens=1, enable_thinking=True))
    usage = got["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == usage["prompt_tokens"] - 1


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few events wait for a reader, and not for long."""
    monkeypatch.setattr(turns, "MOST_EVENTS", 20)
    monkeypatch.setattr(engine, "STALLED_SECONDS", 1.0)
    monkeypatch.setattr(connection, "STUCK_SECONDS", 2.0)


def test_a_slow_reader_pauses_alone_and_is_dropped_in_the_end(
    demo: Qwen3, endless: None, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk.Open, "events", padded(desk.Open.events))
    with serving(demo) as server:
        slow = server.begin(CHAT, body("chat", stream=True), read=300)
        quick = body("chat", stream=True, max_tokens=30, enable_thinking=False)
        assert b"[DONE]" in rest(server.begin(CHAT, quick)), "the others go on"
        wait_for(lambda: not server.scheduler.busy)
        wait_for(lambda: server.desk.busy == 0)
        slow.close()
        assert server.get("/health").status == 200


def padded(original: Any) -> Any:
    """Events with so much text that the socket's buffers fill at once."""
    from dataclasses import replace

    async def events(self: Any) -> Any:
        async for event in original(self):
            text = getattr(event, "text", None)
            long = isinstance(text, str) and "stream" not in str(self.ask.options.get("seed"))
            yield replace(event, text=text * 20_000) if long and text else event

    return events


def test_too_many_are_told_to_come_back(demo: Qwen3, endless: None) -> None:
    with serving(demo, parallel=1, queue=1) as server:
        running = [server.begin(CHAT, body("chat", stream=True), read=300)]
        running.append(server.begin(CHAT, body("chat")))
        wait_for(lambda: server.scheduler.waiting == 1)
        for dialect, path in PATHS.items():
            for stream in (False, True):
                got = server.post(path, body(dialect, stream=stream))
                assert got.status == 503 and float(got.headers["retry-after"]) > 0
                error = got.json["error"]
                assert error["type"] == (
                    "overloaded_error" if dialect == "messages" else "server_error"
                )
        assert server.get("/health").json["waiting"] == 1
        for one in running:
            one.close()
        wait_for(lambda: not server.scheduler.busy)
    with serving(demo, parallel=1, queue=1) as server:
        assert server.post(CHAT, body("chat", max_tokens=1)).status == 200


def test_a_storm(demo: Qwen3, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times what fits, a third of them impatient: each gets an answer or a refusal."""
    say(monkeypatch, demo, "Hello.")
    statuses: list[int] = []
    with serving(demo, parallel=2, queue=4) as server:

        def one(number: int) -> None:
            path, sent = request("chat", number % 2 == 0, f"number {number}")
            if number % 3:
                statuses.append(server.post(path, sent).status)
            else:
                gone = server.begin(path, sent)
                time.sleep(0.01 * (number % 5))
                gone.close()

        threads = [threading.Thread(target=one, args=(n,)) for n in range(60)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        wait_for(lambda: not server.scheduler.busy and not server.desk.busy)
        assert len(statuses) == 40 and set(statuses) <= {200, 503} and 200 in statuses
        assert server.scheduler.counts.faults == 0
        assert server.post(CHAT, body("chat")).status == 200


def test_a_byte_comes_at_least_every_few_seconds(
    demo: Qwen3, monkeypatch: pytest.MonkeyPatch, endless: None
) -> None:
    monkeypatch.setattr(desk, "SILENCE_SECONDS", 0.2)
    monkeypatch.setattr(desk, "ADMISSION_SECONDS", 0.1)
    with serving(demo, parallel=1) as server:
        first = server.begin(CHAT, body("chat", stream=True), read=300)
        for dialect, path in PATHS.items():
            sign = b"event: ping" if dialect == "messages" else b": 0/"
            found = b""
            with server.begin(path, body(dialect, stream=True)) as waiting:
                while found.count(sign) < 2:
                    piece = waiting.recv(65_536)
                    assert piece, found
                    found += piece
        first.close()


@contextlib.contextmanager
def answering(server: Server, more: Any) -> Iterator[tuple[Any, str]]:
    one = server.begin(CHAT, body("chat", stream=True) | more, read=700)
    try:
        yield one, next(iter(server.desk._turns))
    finally:
        one.close()


def test_answer_now_and_stop_from_beside(
    server: Server, demo: Qwen3, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(said: str) -> str:
        if "</think>" in said:
            return "" if said.endswith("Four.") else "Four."
        return "<think>\n" if not said else " on"

    say(monkeypatch, demo, script)
    with answering(server, {}) as (one, id):
        got = server.ok("/v1/interrupt", {"id": id, "kind": "answer"})
        assert got["id"] == id
        said = rest(one)
        assert b'"thinking_cut":"user"' in said and b'"our"' in said and b"[DONE]" in said
    with answering(server, {}) as (one, id):
        server.ok("/v1/interrupt", {"id": id, "kind": "stop"})
        said = rest(one)
        assert b'"our"' not in said and b"[DONE]" in said
    assert server.post("/v1/interrupt", {"id": "chatcmpl-none"}).status == 404
    assert server.post("/v1/interrupt", {"id": id, "kind": "explode"}).status == 400
    assert server.post("/v1/interrupt", {}).status == 400


def test_a_stream_is_the_same_in_one_piece_or_many(server: Server) -> None:
    sent = body("chat", "Say hello.", seed=3, temperature=0.7, enable_thinking=False)
    whole = server.ok(CHAT, sent)["choices"][0]["message"]["content"]
    got = server.post(CHAT, sent | {"stream": True}).body.decode()
    deltas = [one.data["choices"][0]["delta"] for one in events(got) if one.data != "[DONE]"]
    assert "".join(delta.get("content") or "" for delta in deltas) == whole
