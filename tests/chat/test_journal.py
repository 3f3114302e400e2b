"""Conversations kept as they grow: what a crash, a full disk or a second process can do to them."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from qwen3_mlx.chat import export, journal_files, kept_chats
from qwen3_mlx.chat import journal as store
from qwen3_mlx.chat.journal import ChatJournal
from qwen3_mlx.chat.plain import explicit
from qwen3_mlx.errors import SessionError
from qwen3_mlx.events import ToolCall
from qwen3_mlx.options import GenerationOptions
from qwen3_mlx.text import normalise

OPTIONS = GenerationOptions(thinking_budget=7)


def said(*texts: str) -> list[dict[str, Any]]:
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]


STEPS = [
    said("hi", "hello"),
    said("hi", "hello", "1\n2", "你好\udce4"),
    said("hi", "hello", "1\n2", "again"),  # a retry
    [{"role": "system", "content": "S"}, *said("x", "y")],  # another system prompt, an edit
    said("x"),  # undo, no system prompt
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return journal_files.new_path(tmp_path / "sessions")


def test_what_is_kept_is_read_again_after_every_step(path: Path) -> None:
    journal = ChatJournal(path)
    for messages in STEPS:
        journal.keep("demo", OPTIONS, messages)
        kept = store.read(path)
        assert (kept.messages, kept.damage, kept.can_append) == (messages, "", True)
        assert kept.model == "demo" and kept.options["thinking_budget"] == 7
        assert kept.valid_bytes == path.stat().st_size
    assert len(path.read_bytes().splitlines()) == 1 + len(STEPS)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_only_what_changes_is_written(path: Path) -> None:
    journal = ChatJournal(path)
    journal.keep("demo", OPTIONS, [{"role": "system", "content": "S"}])
    assert not path.exists()  # nobody has said anything
    journal.keep("demo", OPTIONS, STEPS[0])
    before = path.read_bytes()
    journal.keep("demo", OPTIONS, STEPS[0])
    assert path.read_bytes() == before
    journal.keep("demo", GenerationOptions(), STEPS[0])
    added = json.loads(path.read_bytes()[len(before) :])
    assert (added["keep"], added["add"]) == (2, [])
    assert store.read(path).options == explicit(GenerationOptions())
    messages = [dict(message) for message in STEPS[0]]
    journal.keep("demo", OPTIONS, messages)
    messages[0]["content"] = "edited in place"
    journal.keep("demo", OPTIONS, messages)
    assert store.read(path).messages[0]["content"] == "edited in place"


def test_every_cut_of_the_file_reads_as_the_last_whole_change(path: Path) -> None:
    journal, ends = ChatJournal(path), []
    for messages in STEPS:
        journal.keep("demo", OPTIONS, messages)
        ends.append(path.stat().st_size)
    data = path.read_bytes()
    head = data.index(b"\n") + 1
    for cut in range(head, len(data) + 1):
        path.write_bytes(data[:cut])
        kept = store.read(path)
        done = sum(end <= cut for end in ends)
        assert kept.messages == (STEPS[done - 1] if done else [])
        assert kept.can_append
        assert bool(kept.damage) == (cut not in (head, *ends))
    path.write_bytes(data[: head - 1])
    with pytest.raises(SessionError):
        store.read(path)


def test_going_on_behind_a_half_line(path: Path) -> None:
    journal = ChatJournal(path)
    journal.keep("demo", OPTIONS, STEPS[0])
    journal.close()
    with path.open("ab") as file:
        file.write(b'{"keep": 2, "add": [{"role": "us' + b"x" * 1000)
    kept = store.read(path)
    journal = ChatJournal(path, kept)
    journal.keep("demo", OPTIONS, STEPS[1])
    again = store.read(path)
    assert (again.messages, again.damage) == (STEPS[1], "")
    assert len(path.read_bytes().splitlines()) == 3


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe\n",
        b"{}\n",
        b"[]\n",
        b'{"keep": 9, "add": [], "model": "m", "options": {}}\n',
        b'{"keep": true, "add": [], "model": "m", "options": {}}\n',
        b'{"keep": 0, "add": [{"role": 1, "content": ""}], "model": "m", "options": {}}\n',
        b'{"keep": 0, "add": [], "model": 1, "options": {}}\n',
        b'{"keep": 0, "add": [], "model": "m", "options": {"temprature": 1}}\n',
        b"[" * 100_000 + b"\n",
    ],
)
def test_damage_in_the_middle_is_read_up_to_there(path: Path, line: bytes) -> None:
    journal = ChatJournal(path)
    journal.keep("demo", OPTIONS, STEPS[0])
    data = path.read_bytes()
    path.write_bytes(data + line + data.splitlines(keepends=True)[1])
    kept = store.read(path)
    assert kept.messages == STEPS[0] and not kept.can_append
    assert "line 3" in kept.damage and "2 lines" in kept.damage


@pytest.mark.parametrize("data", [b"", b"\n", b'{"format": "x"}\n', b"no JSON", b"\0" * 50])
def test_other_files_are_refused(path: Path, data: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(data)
    with pytest.raises(SessionError, match="no kept conversation"):
        store.read(path)
    with pytest.raises(SessionError, match="can't be read"):
        store.read(path.with_name("none.jsonl"))


def test_a_full_disk_leaves_the_file_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = ChatJournal(path)
    journal.keep("demo", OPTIONS, STEPS[0])
    before = path.read_bytes()
    real = os.pwrite

    def full(file: int, data: bytes, at: int) -> int:
        if len(data) < 10:
            raise OSError(28, "No space left on device")
        return real(file, data[: len(data) // 2], at)

    with monkeypatch.context() as patch:
        patch.setattr(store.os, "pwrite", full)
        with pytest.raises(SessionError, match="No space left"):
            journal.keep("demo", OPTIONS, STEPS[1])
    assert path.read_bytes() == before
    journal.keep("demo", OPTIONS, STEPS[1])
    assert store.read(path).messages == STEPS[1]


@pytest.mark.parametrize("is_written_later", [True, False])
def test_a_disk_that_is_full_from_the_start_leaves_no_empty_file(
    path: Path, monkeypatch: pytest.MonkeyPatch, is_written_later: bool
) -> None:
    """`sessions list` would report it as damaged, and --resume step over it, ever after."""
    journal = ChatJournal(path)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store.os, "pwrite", full)
        with pytest.raises(SessionError, match="No space left"):
            journal.keep("demo", OPTIONS, STEPS[0])
    if is_written_later:
        journal.keep("demo", OPTIONS, STEPS[0])
    journal.close()
    assert [*path.parent.glob("*.jsonl")] == [path] * is_written_later


def test_every_change_is_flushed_to_the_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(store.os, "fsync", lambda file: sizes.append(os.fstat(file).st_size))
    journal = ChatJournal(path)
    for messages in STEPS:
        journal.keep("demo", OPTIONS, messages)
        assert sizes[-1] == path.stat().st_size
    assert len(sizes) == len(STEPS)


def test_one_writer_at_a_time(path: Path) -> None:
    first = ChatJournal(path)
    first.keep("demo", OPTIONS, STEPS[0])
    second = ChatJournal(path, store.read(path))
    assert not second.claim()
    first.close()
    assert second.claim()


def test_finding(tmp_path: Path) -> None:
    with pytest.raises(SessionError, match="no conversation is kept yet"):
        kept_chats.latest(tmp_path)
    for number, name in enumerate(["2026-01-02-a", "2026-01-01-b", "2026-01-01"]):
        (tmp_path / f"{name}.jsonl").touch()
        os.utime(tmp_path / f"{name}.jsonl", (number, number))
    assert journal_files.all_in(tmp_path)[0].stem == "2026-01-01"
    assert journal_files.find(tmp_path, "2026-01-02").stem == "2026-01-02-a"
    assert journal_files.find(tmp_path, "2026-01-01").stem == "2026-01-01"
    for bad, many in (("2026", "3"), ("2027", "no"), ("../x", "no")):
        with pytest.raises(SessionError, match=f"which {many} conversations"):
            journal_files.find(tmp_path, bad)


def test_a_conversation_that_was_cleared_is_passed_over_and_not_called_damaged(
    tmp_path: Path,
) -> None:
    cleared = ChatJournal(tmp_path / "b.jsonl")
    for messages in (said("one"), []):
        cleared.keep("demo", OPTIONS, messages)
    cleared.close()
    with pytest.raises(SessionError, match="no conversation is kept yet"):
        kept_chats.latest(tmp_path)
    older = ChatJournal(tmp_path / "a.jsonl")
    older.keep("demo", OPTIONS, said("two"))
    older.close()
    os.utime(older.path, (1, 1))
    found = kept_chats.latest(tmp_path)
    assert (found.path, found.passed_over) == (older.path, "")


def test_markdown() -> None:
    thought = {"role": "assistant", "content": "4", "reasoning_content": "hm"}
    kept = store.SavedChat(Path("x.jsonl"), "demo", messages=[*said("2+2?\nmore"), thought])
    text = export.as_markdown(kept)
    assert text.startswith("# 2+2?\n") and "hm" in text and text.endswith("4\n")


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": "ä"}'}}
PARTS = [{"type": "text", "text": "part one"}, {"type": "text", "text": "part two"}]
SHAPES: list[dict[str, Any]] = [
    {"role": "developer", "content": "D", "name": "boss"},
    {"role": "user", "content": PARTS, "name": "ann"},
    {"role": "assistant", "content": None, "reasoning": "why", "tool_calls": [CALL]},
    {"role": "tool", "content": {"temp": 3.5}, "tool_call_id": "c1", "name": "f"},
    {"role": "tool", "content": [1, None], "tool_call_id": "c2"},
    {"role": "tool", "content": 42},
    {"role": "assistant", "tool_calls": None, "function_call": {"name": "g", "arguments": ""}},
    {"role": "function", "content": ["a", "b"], "name": "g"},
    {"role": "assistant", "content": "end"},
    {"role": "user"},
]


def test_what_can_be_sent_is_kept_saved_listed_and_exported(path: Path, tmp_path: Path) -> None:
    assert normalise(SHAPES)  # it can be sent
    journal = ChatJournal(path)
    journal.keep("demo", OPTIONS, SHAPES)
    store.save(tmp_path / "talk", "demo", OPTIONS, SHAPES)
    (tmp_path / "export.json").write_text(export.as_json(store.read(path)))
    for file in (path, tmp_path / "talk", tmp_path / "export.json"):
        saved = store.read(file)
        assert saved.messages == SHAPES and saved.options == explicit(OPTIONS)
        assert (saved.title, saved.turns, saved.damage) == ("part one", 2, "")
    text = export.as_markdown(store.read(path))
    for shown in (
        *("## Developer: boss", "## User: ann\n\npart one\n\npart two", "why\n\n</details>"),
        json.dumps(CALL, ensure_ascii=False),
        '## Tool: f c1\n\n```json\n{"temp": 3.5}\n```',
        "```json\n42\n```",
        '{"name": "g", "arguments": ""}',
        "## Function: g\n\na\n\nb",
    ):
        assert shown in text


def test_a_call_as_the_model_made_it_is_kept_as_json(path: Path) -> None:
    call = ToolCall("f", MappingProxyType({"a": (1, 2)}))
    message = MappingProxyType({"role": "assistant", "tool_calls": (call,)})
    messages = [{"role": "user", "content": "x"}, message]
    journal = ChatJournal(path)
    journal.keep("demo", OPTIONS, messages)
    size = path.stat().st_size
    journal.keep("demo", OPTIONS, messages)
    assert path.stat().st_size == size  # nothing changed
    expected = [{"name": "f", "arguments": {"a": [1, 2]}}]
    assert store.read(path).messages[1]["tool_calls"] == expected


LOOP: list[Any] = []
LOOP.append(LOOP)


@pytest.mark.parametrize("content", [b"bytes", {1, 2}, object(), LOOP])
def test_what_json_has_no_form_for_is_refused(path: Path, content: object) -> None:
    journal = ChatJournal(path)
    journal.keep("demo", OPTIONS, STEPS[0])
    bad = [*STEPS[0], {"role": "user", "content": content}]
    for write in (journal.keep, lambda *what: store.save(path.with_suffix(".x"), *what)):
        with pytest.raises(SessionError, match="a message can't be kept"):
            write("demo", OPTIONS, bad)
    assert store.read(path).messages == STEPS[0]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_saving_never_replaces_a_file_that_another_chat_writes(path: Path) -> None:
    journal = ChatJournal(path)
    journal.keep("demo", OPTIONS, STEPS[0])
    with pytest.raises(SessionError, match="open in another chat"):
        store.save(path, "demo", OPTIONS, STEPS[1])
    assert store.read(path).messages == STEPS[0]
    journal.close()
    store.save(path, "demo", OPTIONS, STEPS[1])
    assert store.read(path).messages == STEPS[1]


def test_a_conversation_that_an_earlier_version_saved(tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    record = {"format": "qwen3-mlx session", "version": 1, "model": "demo"}
    file.write_text(json.dumps(record | {"options": {"seed": 7}, "messages": STEPS[0]}, indent=1))
    saved = store.read(file)
    assert (saved.model, saved.options, saved.messages) == ("demo", {"seed": 7}, STEPS[0])
    assert not saved.can_append  # a journal's lines may not follow it
