"""Kills at random moments, for tests.campaign: what was confirmed is there, and nothing is half."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]

CHAT = """
import sys; from pathlib import Path
from qwen3_mlx.chat import journal; from qwen3_mlx.options import GenerationOptions
saved, kept = journal.take(Path(sys.argv[1])) if Path(sys.argv[1]).exists() else (None, None)
kept = kept or journal.ChatJournal(Path(sys.argv[1]))
messages = list(saved.messages) if saved else []
while True:
    said = str(len(messages)) * 2000
    messages += [{"role": role, "content": said} for role in ("user", "assistant")]
    kept.keep("demo", GenerationOptions(), messages)
    print(len(messages), flush=True)
"""
CONFIG = """
import os, sys; os.environ["QWEN3_MLX_HOME"] = sys.argv[1]
from qwen3_mlx.cli.settings import write
number = 0
while True:
    number += 1
    write.put("budget", number)
    print(number, flush=True)
"""
PROMPTS = """
import sys; from pathlib import Path
import qwen3_mlx; from qwen3_mlx.chat.prompt_store import PromptStore
from qwen3_mlx.engine.prefill import prefill; from qwen3_mlx.engine.prompt_cache import PromptCache
runtime, store, number = qwen3_mlx.load("demo").runtime, PromptStore(Path(sys.argv[1])), 0
while True:
    tokens, cache = [60 + number % 9] * 40, PromptCache(runtime.network)
    prefill(runtime.network, tokens, cache)
    store.save(runtime, tokens, cache)
    number += 1
    print(number, flush=True)
"""


def killed(code: str, argument: Path, rng: random.Random) -> int:
    """Run `code`, kill it a little after it has begun to work; the last number it confirmed."""
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(argument)], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    first = child.stdout.readline()  # it works by now
    time.sleep(rng.random() * 0.05)
    os.kill(child.pid, signal.SIGKILL)
    rest = child.stdout.read()
    child.wait()
    whole = (first + rest).rpartition(b"\n")[0].split()
    return int(whole[-1]) if whole else 0


def chat(work: Path) -> Callable[[random.Random], None]:
    """A conversation that grows, turn by turn, over all kills: each confirmed turn stays."""
    path = work / "sessions" / "2026-01-01-000000-0000.jsonl"

    def run(rng: random.Random) -> None:
        from qwen3_mlx.chat import journal

        if path.exists() and path.stat().st_size > 2**24:
            path.unlink()
        confirmed = killed(CHAT, path, rng)
        messages = journal.read(path).messages
        assert len(messages) >= confirmed, f"{confirmed} shown, {len(messages)} kept"
        assert all(m["content"] == str(n // 2 * 2) * 2000 for n, m in enumerate(messages))

    return run


def config(work: Path) -> Callable[[random.Random], None]:
    """config.toml: the last confirmed value or the next one, and no other."""

    def run(rng: random.Random) -> None:
        confirmed = killed(CONFIG, work, rng)
        held = tomllib.loads((work / "config.toml").read_text())["budget"]
        assert held in (confirmed, confirmed + 1), f"{confirmed} confirmed, {held} kept"

    return run


def convert(work: Path) -> Callable[[random.Random], None]:
    """20 conversions killed at steps on the disk, resumed, and compared byte by byte."""
    from tests.quantize.build import DENSE, bf16_model
    from tests.tiny_tokenizer import write_tiny_tokenizer

    source = write_tiny_tokenizer(bf16_model(work / "source", DENSE, shards=3))

    def run(rng: random.Random) -> None:
        home = work / f"kills-{rng.randrange(10**9)}"
        home.mkdir()
        command = [sys.executable, "-m", "tests.quantize.killing", str(source), str(home), "20"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["problems"] == []

    return run


def prompts(work: Path) -> Callable[[random.Random], None]:
    """Computed prompts: each that was confirmed is taken up, none is damaged."""
    import qwen3_mlx
    from qwen3_mlx.chat.prompt_store import PromptStore
    from qwen3_mlx.engine.prompt_cache import PromptCache

    runtime = qwen3_mlx.load("demo").runtime
    folder = work / "prompts"

    def run(rng: random.Random) -> None:
        confirmed = killed(PROMPTS, folder, rng)
        for number in range(min(confirmed + 1, 9)):
            found, tokens = PromptCache(runtime.network), [60 + number] * 40
            assert PromptStore(folder).restore(runtime, tokens, found) == "", "one is damaged"
            assert found.tokens in ([], tokens), "another prompt's"
            assert found.tokens or number >= confirmed, f"prompt {number} of {confirmed} is lost"
        left = [file.name for file in folder.iterdir() if not file.name.startswith(".")]
        assert len(left) <= 9, f"{len(left)} files"

    return run


KILLS = {
    "kill-chat": chat,
    "kill-config": config,
    "kill-convert": convert,
    "kill-prompts": prompts,
}
