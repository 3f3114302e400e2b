"""Base URLs that begin or end in another place, and what is told to those who are not let in."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from qwen3_mlx.model import Qwen3
from qwen3_mlx.serve.guard import MOST_REFUSED
from qwen3_mlx.serve.settings import KEY, Settings
from tests.serve.server import Server, serving

CHAT = "/v1/chat/completions"
HI = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}


def said(got: Any) -> str:
    """The message of an error."""
    text: str = got.json["error"]["message"]
    return text


@pytest.mark.parametrize(
    "path", [f"{CHAT}/", f"/{CHAT}", "/v1//chat/completions", "//v1//messages/"]
)
def test_slashes_of_a_base_url_change_no_path(server: Server, path: str) -> None:
    """One at the end was a redirect, which curl leaves alone; a doubled one was a 404."""
    assert server.post(path, HI).status == 200


def test_a_list_with_a_slash_behind_it_is_the_list(server: Server) -> None:
    """It was the model of no name, and a 404."""
    assert server.get("/v1/models/").json == server.get("/v1/models").json
    assert server.get("//").status == 404, "it is no page: / is"


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        (f"/api{CHAT}", f"did you mean {CHAT}?"),
        ("/openai/deployments/x/chat/completions", f"did you mean {CHAT}?"),
        ("/v1/engines/x/completions", "did you mean /v1/completions?"),
        ("/v1/tokenize", "did you mean /tokenize?"),
        ("/api/chat", "OpenAI-compatible provider"),
        ("/api/generate", "OpenAI-compatible provider"),
        ("/v1", "is below /v1"),
        ("/", "it takes "),
        ("/v1/files", "is below /v1"),
        ("/completion", "is below /v1"),
    ],
)
def test_what_is_not_served_says_what_is(server: Server, path: str, hint: str) -> None:
    got = server.post(path, HI)
    assert got.status in (404, 405) and hint in said(got)
    assert "did you mean /?" not in said(got)


@pytest.mark.parametrize(
    ("headers", "hint"),
    [
        ({"host": "host.docker.internal:8080"}, "serve with --allow-host host.docker.internal"),
        ({"origin": "app://obsidian.md"}, "serve with --origin app://obsidian.md"),
        ({"origin": "null"}, "a page that has no origin"),
    ],
    ids=str,
)
def test_who_is_not_let_in_is_told_by_what_he_would_be(
    server: Server, headers: dict[str, str], hint: str
) -> None:
    assert f"\nhint: {hint}" in said(server.post(CHAT, HI, **headers)).replace(
        "if that is this machine, ", ""
    ).replace("if that page may ask, ", "")


def test_the_log_says_once_whom_a_flag_would_let_in(
    demo: Qwen3, caplog: pytest.LogCaptureFixture
) -> None:
    """A browser tells its page nothing of why it was refused, so the log does."""
    caplog.set_level(logging.INFO)
    with serving(demo) as server:
        for n in range(MOST_REFUSED + 20):
            for _ in range(2):
                server.get("/v1/models", origin=f"http://localhost:{n + 1}")
    lines = [line for line in caplog.messages if line.startswith("refused: the origin")]
    assert len(lines) == len(set(lines)) == MOST_REFUSED
    assert "--origin http://localhost:1" in lines[0] and "\n" not in lines[0]


def test_a_key_may_stand_in_either_header(demo: Qwen3, tmp_path: Path) -> None:
    """Anthropic's library sends both where both variables are set: one of them is enough."""
    (tmp_path / "key").write_text("right")
    with serving(demo, api_key_file=tmp_path / "key") as server:
        both = {"authorization": "Bearer none", "x_api_key": "right"}
        assert server.get("/v1/models", **both).status == 200
        both = {"authorization": "Bearer right", "x_api_key": "none"}
        assert server.get("/v1/models", **both).status == 200
        assert said(server.get("/v1/models")).startswith("the key is missing\nhint: send it as")
        wrong = server.get("/v1/models", authorization="Bearer x", x_api_key="y")
        assert wrong.status == 401 and said(wrong).startswith("the key is wrong\nhint: ")
        assert server.get("//health//").status == 200, "it needs no key"
        assert server.get("//v1/models").status == 401


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_the_address_that_is_shown_is_answered(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """`serve --host 0.0.0.0` prints http://0.0.0.0:8080, which was a 421."""
    monkeypatch.setenv(KEY, "k")
    assert host in Settings(host=host).rules().hosts


def test_no_field_is_named_where_the_body_is_none(server: Server) -> None:
    got = server.post(CHAT, [])
    assert got.status == 400 and got.json["error"]["param"] is None
    assert said(got).startswith("the body: got []")
