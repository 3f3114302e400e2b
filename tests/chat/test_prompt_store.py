"""Computed prompts on disk: found again only where they hold, refused where they don't."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from qwen3_mlx import load
from qwen3_mlx.chat.prompt_store import PromptStore, model_key
from qwen3_mlx.checkpoint.fingerprint import fingerprint
from qwen3_mlx.engine.background import BACKGROUND
from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.hub.resolve import resolve
from qwen3_mlx.model import Qwen3
from tests.chat.conftest import until
from tests.oracle import assert_close

DOCUMENT = "The meeting is on Monday at nine. " * 8


def files(store: PromptStore) -> list[Path]:
    return sorted(store.folder.glob("*"))


def kept(model: Qwen3, store: PromptStore, note: str = "") -> list[int]:
    """Have the document's prompt in the store; returns its tokens."""
    chat = model.session(system=DOCUMENT)
    assert note in chat.restore_prompt(store) and bool(note) == bool(chat.restore_prompt(store))
    chat.warm()
    return chat.cache.tokens


def test_the_next_start_computes_nothing(demo: Qwen3, store: PromptStore) -> None:
    tokens = kept(demo, store)
    (file,) = files(store)
    assert file.stat().st_mode & 0o777 == 0o600
    written = file.stat().st_ino
    arrays = {f"{name}.{layer}" for name in ("keys", "values") for layer in range(6)}
    assert set(mx.load(str(file))) == arrays | {"tokens"}
    chat = demo.session(system=DOCUMENT, seed=1)
    assert chat.restore_prompt(store) == "" and chat.cache.tokens == tokens
    prompt = [*tokens, 100, 101, 102]
    here = prefill(demo.network, prompt[len(tokens) :], chat.cache)
    assert_close(here, prefill(demo.network, prompt, PromptCache(demo.network)))
    chat.cache.truncate(len(tokens))
    *_, done = chat.send("What is 7 * 8?")
    assert done.stats.cached_tokens == len(tokens)
    assert chat.warm() >= 0 and files(store) == [file]
    assert file.stat().st_ino == written  # it was there already: not written again


def test_the_longest_beginning_is_taken(demo: Qwen3, store: PromptStore) -> None:
    short = kept(demo, store)
    chat = demo.session(system=DOCUMENT)
    chat.messages += [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    chat.restore_prompt(store)
    assert chat.cache.tokens == short
    assert 0 < chat.warm() < 20
    assert len(files(store)) == 2
    again = demo.session()
    again.messages = chat.messages
    again.restore_prompt(store)
    assert again.cache.tokens == chat.cache.tokens
    other = demo.session(system="Another. " + DOCUMENT)
    other.restore_prompt(store)
    assert other.cache.tokens == []


def copy(tmp_path: Path, name: str = "copy") -> Path:
    return Path(shutil.copytree(resolve("demo"), tmp_path / name))


def rewritten(folder: Path) -> None:
    """Other weights of the same shapes: one byte in the last tensor."""
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def edited(name: str) -> Any:
    def edit(folder: Path) -> None:
        text = (folder / name).read_text("utf-8")
        (folder / name).write_text(text + " ", "utf-8")

    return edit


@pytest.mark.parametrize(
    "change",
    [rewritten, *map(edited, ("config.json", "tokenizer.json", "tokenizer_config.json"))],
    ids=["weights", "config", "tokenizer", "template"],
)
def test_a_changed_checkpoint_finds_nothing(
    store: PromptStore, tmp_path: Path, change: Any
) -> None:
    folder = copy(tmp_path)
    kept(load(folder), store)
    change(folder)
    chat = load(folder).session(system=DOCUMENT)
    assert "changed; it is computed anew" in chat.restore_prompt(store)
    assert chat.cache.tokens == []
    chat.warm()
    assert len(files(store)) == 2
    for _ in range(2):
        # whichever of the files comes first by its name
        assert load(folder).session(system=DOCUMENT).restore_prompt(store) == ""
        change(folder)
        kept(load(folder), store, "changed")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_one_byte_tells_checkpoints_apart(tmp_path: Path, name: str) -> None:
    """Even where size and time are the same: every byte of text, samples of the weights."""
    folder = copy(tmp_path)
    before, times = fingerprint(folder), (folder / name).stat()
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2 + 16] ^= 1
    (folder / name).write_bytes(data)
    os.utime(folder / name, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert fingerprint(folder) != before


def test_a_checkpoint_replaced_while_it_is_loaded(store: PromptStore, tmp_path: Path) -> None:
    """What is in memory is not what the files say now, so nothing is kept or taken."""
    model = load(copy(tmp_path))
    rewritten(tmp_path / "copy")
    kept(model, store)
    assert not store.folder.exists()


def test_the_key_holds_dtype_rope_and_versions(
    demo: Qwen3, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = demo.runtime
    key = model_key(runtime)
    assert key == model_key(load("demo").runtime)
    assert key == model_key(load("demo", context=512).runtime)  # RoPE is the same
    assert key != model_key(load("demo", context=8192).runtime)  # YaRN
    assert model_key(replace(runtime, path=None)) is None
    assert model_key(replace(runtime, path=Path("/nowhere"))) is None
    with monkeypatch.context() as patch:
        patch.setattr("qwen3_mlx.chat.prompt_store.version", lambda _name: "0")
        assert model_key(runtime) != key
    with monkeypatch.context() as patch:
        patch.setattr("qwen3_mlx.chat.prompt_store.VERSION", 99)
        assert model_key(runtime) != key
    norm = runtime.network.model.norm
    weight = norm.weight
    norm.weight = weight.astype(mx.bfloat16)
    assert model_key(runtime) != key
    norm.weight = weight


def test_another_model_is_no_reason_for_a_note(store: PromptStore, tmp_path: Path) -> None:
    kept(load(copy(tmp_path, "one")), store)
    two = copy(tmp_path, "two")
    rewritten(two)
    chat = load(two).session(system=DOCUMENT)
    assert chat.restore_prompt(store) == "" and chat.cache.tokens == []


def test_a_copy_of_the_model_is_the_same_model(store: PromptStore, tmp_path: Path) -> None:
    tokens = kept(load(copy(tmp_path, "one")), store)
    chat = load(copy(tmp_path, "two")).session(system=DOCUMENT)
    assert chat.restore_prompt(store) == "" and chat.cache.tokens == tokens


@pytest.mark.parametrize("damage", ["cut", "empty", "byte", "shape", "rubbish", "metadata"])
def test_a_damaged_file_is_removed(demo: Qwen3, store: PromptStore, damage: str) -> None:
    tokens = kept(demo, store)
    (file,) = files(store)
    data = file.read_bytes()
    flipped = bytearray(data)
    flipped[-5] ^= 64
    count = str(len(tokens)).encode()
    file.write_bytes(
        {
            "cut": data[:-100],
            "empty": b"",
            "byte": bytes(flipped),
            "shape": data.replace(b"[1,2," + count + b",64]", b"[2,1," + count + b",64]"),
            "rubbish": b"x" * 1000,
            "metadata": data.replace(b'"digest"', b'"digets"'),
        }[damage]
    )
    chat = demo.session(system=DOCUMENT)
    note = chat.restore_prompt(store)
    assert "damaged and was removed" in note and "computed anew" in note
    assert chat.cache.tokens == [] and files(store) == []
    assert chat.warm() == len(tokens)
    again = demo.session(system=DOCUMENT)  # and it is kept again
    assert again.restore_prompt(store) == "" and again.cache.tokens == tokens


def test_the_least_recently_used_go(demo: Qwen3, store: PromptStore) -> None:
    for number, day in enumerate(("Monday", "Tuesday", "Friday")):
        chat = demo.session(system=day + DOCUMENT)
        chat.restore_prompt(store)
        chat.warm()
        (new,) = (file for file in files(store) if file.stat().st_mtime_ns > 10**18)
        os.utime(new, (number, number))
    monday, tuesday, friday = sorted(files(store), key=lambda file: file.stat().st_mtime)
    demo.session(system="Monday" + DOCUMENT).restore_prompt(store)  # used again
    store.cap = 2 * friday.stat().st_size
    chat = demo.session(system="Sunday" + DOCUMENT)
    chat.restore_prompt(store)
    chat.warm()
    assert monday.exists() and not tuesday.exists() and not friday.exists()
    assert len(files(store)) == 2
    store.cap = 1000
    chat = demo.session(system="Saturday" + DOCUMENT)
    chat.restore_prompt(store)
    chat.warm()
    assert len(files(store)) == 2  # too large to be kept


def test_giving_up_leaves_nothing_and_tries_again(demo: Qwen3, store: PromptStore) -> None:
    chat = demo.session(system=DOCUMENT, thinking=False, temperature=0.0, max_tokens=3)
    chat.restore_prompt(store)
    chat.warm()
    (file,) = files(store)
    file.unlink()
    asked: list[int] = []

    def stopped() -> bool:
        asked.append(1)
        return len(asked) > 3

    known = chat.cache.tokens
    assert not store.save(demo.runtime, known, chat.cache, stopped)
    assert files(store) == []
    again = demo.session(system=DOCUMENT, thinking=False, temperature=0.0, max_tokens=3)
    again.restore_prompt(store)
    list(again.send("hi"))  # before anything was warmed
    again.warm_in_background()
    assert BACKGROUND.wait(20)
    assert files(store) == [file]


def test_a_full_disk_costs_nothing(
    demo: Qwen3, store: PromptStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("qwen3_mlx.chat.prompt_store.os.fsync", full)
    kept(demo, store)
    assert files(store) == []
    store.folder.rmdir()
    store.folder.touch()  # no directory
    kept(demo, store)


def test_leftovers_of_a_crash_are_swept(demo: Qwen3, store: PromptStore) -> None:
    store.folder.mkdir()
    (store.folder / "old.part").touch()
    os.utime(store.folder / "old.part", (1, 1))
    (store.folder / "new.part").touch()
    (store.folder / "strange-name.safetensors").touch()
    kept(demo, store)
    names = {file.name for file in files(store)}
    assert "old.part" not in names and {"new.part", "strange-name.safetensors"} < names


def test_a_short_prompt_is_not_worth_a_file(demo: Qwen3, store: PromptStore) -> None:
    chat = demo.session(system="Hi.")
    chat.restore_prompt(store)
    chat.warm()
    assert not store.folder.exists()
    assert store.save(demo.runtime, chat.cache.tokens, chat.cache), "or each turn tries again"


def test_it_is_written_once(demo: Qwen3, store: PromptStore) -> None:
    kept(demo, store)
    chat = demo.session(system=DOCUMENT, thinking=False, temperature=0.0, max_tokens=3)
    files(store)[0].unlink()
    chat.restore_prompt(store)
    for text in ("one", "two"):
        list(chat.send(text))
        chat.warm()
        (file,) = files(store)
        file.write_bytes(b"")  # a second writing would show
        chat.save_prompt()
    assert file.stat().st_size == 0


def test_what_is_not_computed_yet_is_kept_later(demo: Qwen3, store: PromptStore) -> None:
    chat = demo.session(system=DOCUMENT)
    chat.restore_prompt(store)
    chat.save_prompt()
    assert files(store) == []
    chat.warm()
    assert len(files(store)) == 1


def test_other_tokens_are_not_kept_in_its_name(demo: Qwen3, store: PromptStore) -> None:
    """The system prompt is changed before the first one was computed."""
    chat = demo.session(system=DOCUMENT)
    chat.restore_prompt(store)
    chat.system = "Another. " + DOCUMENT
    chat.warm()
    assert files(store) == []


def test_the_background_is_stopped_for_it(demo: Qwen3, store: PromptStore, slow: list[int]) -> None:
    """Restoring and saving touch what the background computes into, and nobody waits for it."""
    kept(demo, store)
    for act in (lambda chat: chat.restore_prompt(store), lambda chat: chat.save_prompt()):
        slow.clear()
        other, chat = demo.session(system="word " * 300), demo.session(system=DOCUMENT)
        other.warm_in_background()
        until(slow, 1)
        act(chat)
        assert BACKGROUND.wait(0)
        assert sum(slow) < 200  # far from done
