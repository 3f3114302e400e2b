"""Who is let in: host, origin, key, content type, sizes, time; and nothing said is logged."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qwen3_mlx.errors import OptionError
from qwen3_mlx.model import Qwen3
from qwen3_mlx.serve import connection, guard
from qwen3_mlx.serve.settings import KEY, Settings
from tests.serve.asking import PATHS, body
from tests.serve.server import Server, serving

CHAT = "/v1/chat/completions"
HI = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}


@pytest.fixture(scope="module")
def locked(demo: Qwen3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    key = tmp_path_factory.mktemp("key") / "key"
    key.write_text("correct horse\n")
    origins = ("https://chat.example",)
    with serving(demo, api_key_file=key, origins=origins, hosts=("My-Mac.local",)) as one:
        yield one


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:{port}", 200),
        ("127.0.0.1:{port}", 200),
        ("LOCALHOST", 200),
        ("[::1]:{port}", 200),
        ("evil.example", 421),
        ("evil.example:{port}", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("127.0.0.2", 421),
        ("", 421),
        ("[::1", 421),
        ("a:b:c", 421),
    ],
)
def test_only_our_own_names(server: Server, host: str, status: int) -> None:
    """A page of another site that points its name here (DNS rebinding) reaches nothing."""
    named = host.format(port=server.port)
    for path in ("/v1/models", "/", "/health", "/metrics"):
        got = server.get(path, host=named)
        assert got.status == status, path
    assert server.post(CHAT, HI, host=named).status in (status, 400)


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:{port}", 200),
        ("https://evil.example", 403),
        ("null", 403),
        ("http://localhost:1", 403),
        ("http://localhost.evil.example:{port}", 403),
        ("file://", 403),
        ("http://[", 403),
    ],
)
def test_no_other_pages_origin(server: Server, origin: str, status: int) -> None:
    said = {"host": f"localhost:{server.port}", "origin": origin.format(port=server.port)}
    got = server.post(CHAT, HI, **said)
    assert got.status == status
    assert not [name for name in got.headers if name.startswith("access-control")]
    assert server.get("/v1/models", **said).status == status
    assert server("OPTIONS", CHAT, **said).status in (403, 405)


def test_an_origin_that_is_allowed_is_told_so(locked: Server) -> None:
    origin = {"origin": "https://chat.example"}
    got = locked("OPTIONS", CHAT, **origin)
    assert got.status == 204
    assert got.headers["access-control-allow-origin"] == "https://chat.example"
    assert "authorization" in got.headers["access-control-allow-headers"]
    key = {"authorization": "Bearer correct horse"}
    got = locked.post(CHAT, HI, **origin, **key)
    assert got.status == 200 and got.headers["access-control-allow-origin"] == origin["origin"]
    assert locked.post(CHAT, HI, origin="https://chat.example.evil", **key).status == 403
    assert locked.get("/v1/models", host="my-mac.local", **key).status == 200


def test_the_key(locked: Server) -> None:
    for path in (CHAT, "/v1/messages", "/v1/responses", "/tokenize", "/v1/interrupt"):
        got = locked.post(path, HI)
        assert got.status == 401 and b"horse" not in got.body
    for path in ("/v1/models", "/metrics", "/v1/responses/resp_1", "/no/such"):
        assert locked.get(path).status == 401
    assert locked.get("/").status == locked.get("/health").status == 200
    for good in ({"authorization": "Bearer correct horse"}, {"x_api_key": "correct horse"}):
        assert locked.get("/v1/models", **good).status == 200
    for bad in ("Bearer correct hors", "Bearer ", "Basic correct horse", "Bearer correct horse2"):
        assert locked.get("/v1/models", authorization=bad).status == 401
    assert locked.get("/v1/models", x_api_key="ÿ\xe9").status == 401
    shape = locked.post("/v1/messages", HI).json
    assert shape["type"] == "error" and shape["error"]["type"] == "authentication_error"


@pytest.mark.parametrize("kind", ["text/plain", "", "application/x-www-form-urlencoded", "json"])
def test_only_json(server: Server, kind: str) -> None:
    """What a form or a simple cross-site request can send is not taken."""
    for path in (*PATHS.values(), "/tokenize"):
        assert server.post(path, HI, content_type=kind).status == 415
    assert server.post(CHAT, HI, content_type="application/json; charset=utf-8").status == 200


def test_a_packed_body_is_refused_with_the_name_of_its_packing(server: Server) -> None:
    for packed in ("gzip", "br", "x" * 99):
        got = server.post(CHAT, HI, content_encoding=packed)
        said = got.json["error"]["message"]
        assert got.status == 415 and f"content-encoding: got '{packed[:60]}'" in said
    assert server.post(CHAT, HI, content_encoding="identity").status == 200


def test_a_body_has_a_size(demo: Qwen3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MOST_BODY", 10_000)
    with serving(demo) as server:
        long = {"messages": [{"role": "user", "content": "x" * 20_000}]}
        for path in PATHS.values():
            got = server.post(path, long)
            assert got.status == 413 and "10,000 bytes" in got.json["error"]["message"]
        chunk = b"2000\r\n" + b"x" * 0x2000 + b"\r\n"
        head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        sent = f"{head}transfer-encoding: chunked\r\n\r\n".encode() + chunk * 4
        assert b" 413 " in server.raw(sent, timeout=3)
        assert server.post(CHAT, HI).status == 200


def test_bodies_together_have_a_size(demo: Qwen3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MOST_BODIES", 50_000)
    with serving(demo) as server:
        head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(4)]
        for one in slow:
            one.sendall(f"{head}content-length: 20000\r\n\r\n".encode() + b"x" * 15_000)
        time.sleep(0.3)
        got = server.post(CHAT, HI | {"user": "x" * 15_000})
        assert got.status == 503 and got.headers["retry-after"]
        for one in slow:
            one.close()
        time.sleep(0.3)
        assert server.post(CHAT, HI).status == 200


def test_headers_have_a_size(server: Server) -> None:
    long = f"x-long: {'y' * 200_000}\r\n"
    many = "".join(f"x-{n}: {'y' * 90}\r\n" for n in range(3000))
    for headers in (long, many):
        sent = f"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n".encode()
        got = server.raw(sent, 3)
        assert got == b"" or b" 400 " in got
    assert server.get("/v1/models").status == 200


def test_who_sends_its_head_slowly_is_dropped(demo: Qwen3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.5)
    with serving(demo) as server:
        began = time.monotonic()
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as slow:
            assert slow.recv(1) == b"", "who says nothing"
        head = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nx: " + b"y" * 200
        slow = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        with slow, pytest.raises(OSError):
            for byte in head:
                slow.sendall(bytes([byte]))
                time.sleep(0.05)
        post = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        got = server.raw(f"{post}content-length: 100\r\n\r\n{{".encode(), 10)
        assert b" 408 " in got
        assert time.monotonic() - began < 20
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as slow:
            slow.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\nGET /hea")
            found = b""
            while piece := slow.recv(65_536):
                found += piece
            assert found.count(b"HTTP/1.1 200") == 1, "the second head never came"
        assert server.post(CHAT, HI).status == 200


def test_a_connection_is_kept_longer_than_a_head_may_take(
    demo: Qwen3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients keep theirs for 5 or 15 seconds, and must not find it closed as they ask."""
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.3)
    one = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
    with serving(demo) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as kept:
            for _ in range(2):
                kept.sendall(one)
                assert kept.recv(15) == b"HTTP/1.1 200 OK"
                while b"}" not in kept.recv(65_536):
                    pass
                assert server.raw(b"GET", 10) == b"", "a head that never came"
            kept.sendall(b"GET /hea")
            assert kept.recv(1) == b"", "nor does the rest of this one"
        assert server.server.config.timeout_keep_alive == connection.IDLE_SECONDS > 15


def test_two_requests_in_one_piece_get_two_answers(server: Server) -> None:
    one = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
    last = b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    assert server.raw(one + last).count(b"HTTP/1.1 200") == 2


@pytest.mark.parametrize(
    "sent",
    [
        b"\r\n\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: x\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nhost: a\r\nhost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET /%ff%fe%00 HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
        b"POST /tokenize HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"transfer-encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_what_is_no_http(server: Server, sent: bytes) -> None:
    got = server.raw(sent, timeout=1.5)
    assert b" 500 " not in got
    assert server.get("/health").status == 200


def test_paths_and_methods_that_are_not_there(server: Server) -> None:
    for path in ("/v1", "/v1/nothing", "//", "/../etc/passwd", "/v1/models/../../x"):
        got = server.get(path)
        assert got.status == 404 and "error" in got.json
    got = server.get(CHAT)
    assert got.status == 405 and "error" in got.json
    assert got.headers["allow"] == "POST" and "it takes POST" in got.json["error"]["message"]
    got = server("PUT", "/v1/messages")
    assert got.status == 405 and got.json["type"] == "error"
    for path, meant in (("/chat/completions", CHAT), ("/v1/v1/messages", "/v1/messages")):
        got = server.post(path, HI)
        assert got.status == 404 and f"did you mean {meant}?" in got.json["error"]["message"]


@pytest.mark.parametrize("way", [("GET", "/v1/models/x"), ("PUT", "/v1/models"), ("GET", "/v1/x")])
def test_errors_of_shared_paths_are_in_the_dialect_of_the_client(
    server: Server, way: tuple[str, str]
) -> None:
    got = server(*way, anthropic_version="2023-06-01")
    assert got.json["type"] == "error" and got.json["error"]["message"]
    assert "type" not in server(*way).json
    elsewhere = server(*way, anthropic_version="2023-06-01", host="elsewhere")
    assert elsewhere.status == 421 and elsewhere.json["type"] == "error"


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7", "::", "my-mac.local"])
def test_off_loopback_a_key_is_needed(
    host: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(KEY, raising=False)
    with pytest.raises(OptionError, match="a key is needed"):
        Settings(host=host).rules()
    for wrong in ("", " \n", "two\nlines", "ключ"):
        (tmp_path / "key").write_text(wrong)
        with pytest.raises(OptionError, match="holds no key"):
            Settings(host=host, api_key_file=tmp_path / "key").rules()
    monkeypatch.setenv(KEY, "k")
    rules = Settings(host=host).rules()
    assert rules.key == "k" and "localhost" in rules.hosts
    assert host in rules.hosts or host in ("0.0.0.0", "::")


def test_nothing_that_was_said_is_logged(
    server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "Rumpelstilzchen"

    def send(**more: Any) -> None:
        for dialect, path in PATHS.items():
            server.post(path, body(dialect, secret, **more))
        server.post(CHAT, json.dumps(HI).encode()[:-3] + secret.encode())

    send(max_tokens=4)
    send(temperature=secret)
    send(stop=[secret], user=secret, metadata={secret: secret})
    server.post("/tokenize", {"prompt": secret})
    server.post("/v1/completions", {"prompt": secret, "max_tokens": 2})

    def broken(*_: Any, **__: Any) -> None:
        raise KeyError(secret)

    monkeypatch.setattr("qwen3_mlx.serve.desk.ready", broken)
    send(max_tokens=4)
    assert "a turn failed of KeyError" in caplog.text and secret not in caplog.text
