"""Conversations over a restart: they lie on disk, and what is wrong there costs time alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qwen3_mlx.chat.prompt_store import PromptStore
from qwen3_mlx.model import Qwen3
from qwen3_mlx.serve import kept_prefixes
from tests.scripted import say
from tests.serve.asking import PATHS
from tests.serve.server import Server, serving, wait_for

SYSTEM = {"role": "system", "content": "You sort numbers, and say hello to who comes. " * 60}
CHAT = PATHS["chat"]


def cached(server: Server, *texts: str) -> tuple[int, int]:
    """Tokens of the prompt that were there, and all."""
    talk: list[Any] = [SYSTEM, *({"role": "user", "content": text} for text in texts)]
    body = {"messages": talk, "max_tokens": 2, "enable_thinking": False}
    usage = server.ok(CHAT, body)["usage"]
    return usage["prompt_tokens_details"]["cached_tokens"], usage["prompt_tokens"]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_prefixes, "SHORTEST", 300)


def test_what_conversations_share_is_found_by_the_next_server(demo: Qwen3, tmp_path: Path) -> None:
    with serving(demo, prefix_folder=tmp_path) as server:
        assert cached(server, "Sort 3, 1, 2.")[0] == 0
        shared = cached(server, "Hello.")[0]
        assert shared > 300
    assert list(tmp_path.glob("*.safetensors"))
    with serving(demo, prefix_folder=tmp_path) as server:
        assert cached(server, "Another one.")[0] >= shared - 1
    with serving(demo) as server:
        assert cached(server, "Another one.")[0] == 0


def test_one_conversation_is_enough_for_the_next_server(demo: Qwen3, tmp_path: Path) -> None:
    """The same question again, and another one behind the same system prompt."""
    found = []
    for text in ("Sort 3, 1, 2.", "Sort 3, 1, 2.", "Hello."):
        with serving(demo, prefix_folder=tmp_path) as server:
            found.append(cached(server, text))
    (first, prompt), again, other = found
    assert first == 0 and again == (prompt - 1, prompt) and other[0] > 300


def test_a_conversation_goes_on_after_a_restart(
    demo: Qwen3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(monkeypatch, demo, "Good day to you.")
    talk = [SYSTEM, {"role": "user", "content": "Hello."}]
    more = [{"role": "assistant", "content": "Good day to you."}]
    more.append({"role": "user", "content": "And again."})
    found = []
    for restart in (True, False):
        folder = tmp_path / str(restart)
        first = serving(demo, prefix_folder=folder)
        with first as server:
            server.ok(CHAT, {"messages": talk, "enable_thinking": False})
            wait_for(lambda s=server: not s.scheduler._idle._caches)
            if not restart:
                found.append(server.ok(CHAT, {"messages": talk + more, "temperature": 0}))
        if restart:
            with serving(demo, prefix_folder=folder) as server:
                found.append(server.ok(CHAT, {"messages": talk + more, "temperature": 0}))
    one, other = found
    assert one["choices"] == other["choices"]
    assert one["usage"]["prompt_tokens_details"]["cached_tokens"] > 800


def test_what_is_wrong_on_the_disk_costs_time_alone(
    demo: Qwen3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(demo, prefix_folder=tmp_path) as server:
        cached(server, "Hello.")
    for file in tmp_path.glob("*.safetensors"):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    with serving(demo, prefix_folder=tmp_path) as server:
        assert cached(server, "Hello.")[0] == 0
    no_folder = tmp_path / "file"
    no_folder.write_text("in the way")
    with serving(demo, prefix_folder=no_folder) as server:
        assert cached(server, "Hello.")[0] == 0

    def full(*_: Any, **__: Any) -> bool:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("qwen3_mlx.chat.prompt_store._write", full)
    with serving(demo, prefix_folder=tmp_path / "new") as server:
        cached(server, "Hello.")
    assert not list((tmp_path / "new").glob("*"))


def test_an_error_while_writing_does_not_hold_the_end_up(
    demo: Qwen3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> bool:
        raise ZeroDivisionError

    monkeypatch.setattr(PromptStore, "save", broken)
    with serving(demo, prefix_folder=tmp_path) as server:
        cached(server, "Hello.")
