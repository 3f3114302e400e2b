"""Two processes on one file, in 100 random orders of their system calls: nothing is lost.

The configuration, a conversion's target, the verdicts on the kernels, the computed prompts and the
last model; conversations have test_two_windows.py. Threads stand for the processes: a lock of the
operating system belongs to whoever opened the file, so one thread shuts the other out as well.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

import qwen3_mlx
from qwen3_mlx.chat.prompt_store import PromptStore
from qwen3_mlx.cli.settings import folders, settings, write
from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.errors import ConfigError, OptionError
from qwen3_mlx.files import held
from qwen3_mlx.metal import verdict
from qwen3_mlx.metal.verdict import Verdict
from qwen3_mlx.quantize import job
from tests.quantize.build import DENSE, all_bytes, bf16_model
from tests.quantize.conftest import convert, request
from tests.tiny_tokenizer import write_tiny_tokenizer
from tests.trust.turns import Interleaver

ORDERS = 100


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for a lock gives its turn away in place of sleeping."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


def test_the_configuration(state_home: Path, interleave: Interleaver) -> None:
    """Each sets two keys and takes a third out; every change is there, and no other file."""
    write.put("theme", "dark")
    write.put("plain", True)

    def work(keys: dict[str, object]) -> None:
        for key, value in keys.items():
            write.put(key, value)

    for seed in range(ORDERS):
        first = {"budget": seed, "top_k": seed, "theme": None}
        second = {"max_tokens": seed + 1000, "context": seed + 1, "plain": None}
        assert interleave(seed, partial(work, first), partial(work, second)) == []
        wanted = {key: value for key, value in (first | second).items() if value is not None}
        assert settings.read(settings.file()) == wanted, seed
        assert [file.name for file in state_home.iterdir()] == ["config.toml"]
        write.put("theme", "dark")
        write.put("plain", True)


def test_who_waits_too_long_for_the_configuration_is_told(
    state_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "PATIENCE_S", 0.05)
    write.put("budget", 5)
    with (
        write.exclusive(settings.file()),
        pytest.raises(ConfigError, match=r"another command is changing .*config\.toml"),
    ):
        write.put("budget", 6)
    assert settings.read(settings.file()) == {"budget": 5}


def test_a_lock_that_a_killed_process_left(tmp_path: Path) -> None:
    lock = tmp_path / ".x.lock"
    code = f"from qwen3_mlx.files import held; import os; from pathlib import Path\n\
with held(Path({str(lock)!r})): os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert lock.exists()
    with held(lock), pytest.raises(BlockingIOError), held(lock):
        pass
    assert not lock.exists()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_tiny_tokenizer(bf16_model(tmp_path / "source", DENSE, shards=2))


def test_a_conversions_target(source: Path, tmp_path: Path, interleave: Interleaver) -> None:
    """One of two conversions to a place is told so, or comes when it is done: the same bytes."""
    convert(source, tmp_path / "want", shard_bytes=60_000)
    want, refused = all_bytes(tmp_path / "want"), 0
    for seed in range(ORDERS):
        home = tmp_path / str(seed)
        asked = request(source, home / "out", shard_bytes=60_000)
        errors = interleave(seed, *(partial(job.run, job.prepare(asked)) for _ in range(2)))
        for _, error in errors:
            assert isinstance(error, OptionError), (seed, error)
            assert "another conversion has the target" in str(error)
        refused += len(errors)
        assert len(errors) < 2 and all_bytes(home / "out") == want, seed
        assert [file.name for file in home.iterdir()] == ["out"]
        shutil.rmtree(home)
    assert refused > ORDERS / 2


def test_two_recipes_for_one_target(source: Path, tmp_path: Path, interleave: Interleaver) -> None:
    wants = []
    for recipe in ("4bit", "8bit"):
        convert(source, tmp_path / recipe, recipe)
        wants.append(all_bytes(tmp_path / recipe))
    for seed in range(20):
        out = tmp_path / str(seed) / "out"
        jobs = [job.prepare(request(source, out, recipe)) for recipe in ("4bit", "8bit")]
        errors = interleave(seed, *(partial(job.run, one) for one in jobs))
        texts = [str(error) for _, error in errors]
        assert len(texts) == 1, "the second is told, also where the first has finished"
        assert "another conversion" in texts[0] or "the target exists" in texts[0], texts
        assert all_bytes(out) == wants[1 - errors[0][0]], seed


def test_verdicts_and_the_last_model(state_home: Path, interleave: Interleaver) -> None:
    """Written whole by both, at any moment one of the two is there."""
    file = verdict.folder() / "one.json"

    def work(name: str) -> None:
        for tries in range(3):
            assert verdict.write(file, Verdict(right=[name] * 50, tries=tries)) is None
            found = verdict.read(file)
            assert found is not None and found.right in (["a"] * 50, ["b"] * 50)
            folders.remember_model(name)
            assert folders.last_model() in ("a", "b")

    for seed in range(ORDERS):
        assert interleave(seed, partial(work, "a"), partial(work, "b")) == [], seed
        assert [one.name for one in file.parent.iterdir()] == ["one.json"]
        assert sorted(one.name for one in state_home.iterdir()) == ["kernels", "state.json"]


def test_computed_prompts(tmp_path: Path, interleave: Interleaver) -> None:
    """Both keep and take up prompts, in a folder with room for one: each is whole, or not there."""
    runtime = qwen3_mlx.load("demo").runtime
    tokens = {name: [ord(name) + n % 50 for n in range(40)] for name in "ab"}
    caches = {}
    for name, ids in tokens.items():
        caches[name] = PromptCache(runtime.network)
        prefill(runtime.network, ids, caches[name])
    store = PromptStore(tmp_path / "prompts")
    store.save(runtime, tokens["a"], caches["a"])
    store.cap = next(store.folder.iterdir()).stat().st_size + 10

    def work(name: str, other: str) -> None:
        assert store.save(runtime, tokens[name], caches[name])
        for one in (name, other, name):
            found = PromptCache(runtime.network)
            assert store.restore(runtime, tokens[one], found) == "", "nothing is damaged"
            assert found.tokens in ([], tokens[one])
        assert store.save(runtime, tokens[other], caches[other])

    for seed in range(ORDERS):
        assert interleave(seed, partial(work, "a", "b"), partial(work, "b", "a")) == [], seed
        assert len(list(store.folder.iterdir())) <= 2
