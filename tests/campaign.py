"""Hostile inputs by the thousand, and kills: no crash, no hang, no growth, no error but ours.

    python -m tests.campaign tokenizer 2000        # one campaign
    python -m tests.campaign all 500 --seed 7      # each of them, so many inputs
    python -m tests.campaign all 9000 --at-once 8  # in eight workers
    nice -n 10 python -m tests.campaign all 100000 # a night

A worker process takes the inputs one by one; when it dies, computes for more than 10 seconds, is
silent for 2 minutes or has grown by 2 GB, that input is a fault and another worker goes on behind.
The 10 seconds are the process's own: a busy machine makes no fault. Every input is made from its
number and the seed; `--first` begins at a later one. Config, index, headers: tests.corpus.mutate.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue
from typing import Any

import qwen3_mlx
from qwen3_mlx.errors import Qwen3Error
from tests.campaign_inputs import INPUTS
from tests.campaign_kill_chats import CHATS
from tests.campaign_kills import KILLS
from tests.campaign_tool_chats import TOOLS
from tests.corpus.mutate import mutate_bytes, mutate_json

DEMO = Path(qwen3_mlx.__file__).parent / "demo"
SECONDS, STILL, GROWTH = 10.0, 120.0, 2 * 2**30
Input = Callable[[random.Random], object]
HOSTILE = ("a" * 10**5, "\x00", "\ud800", "<|im_start|>", "</think>", "é" * 999, "\x1b]0;x\x07", "")


def model_with(work: Path, changes: dict[str, bytes]) -> Path:
    """The demo with some files of other contents."""
    model = work / "model"
    shutil.rmtree(model, ignore_errors=True)
    model.mkdir(parents=True)
    for file in DEMO.iterdir():
        if file.name not in changes and file.is_file():
            (model / file.name).symlink_to(file)
    for name, data in changes.items():
        (model / name).write_bytes(data)
    return model


def changed(name: str, rng: random.Random) -> bytes:
    """A file of the demo, changed: mostly as JSON, else in its bytes."""
    data = (DEMO / name).read_bytes()
    if rng.random() < 0.2:
        return mutate_bytes(data, rng)
    return json.dumps(mutate_json(json.loads(data), rng)).encode("utf-8", "surrogatepass")


def files(name: str) -> Callable[[Path], Input]:
    """Loads the demo with one file changed, and answers a little."""

    def one(work: Path) -> Input:
        def run(rng: random.Random) -> None:
            model = qwen3_mlx.load(model_with(work, {name: changed(name, rng)}))
            model.generate(rng.choice(("hi", "", *HOSTILE[1:])), max_tokens=2)

        return run

    return one


PIECES = (
    *(
        "{{ messages }}",
        "{% for m in messages %}",
        "{% endfor %}",
        "{{ m.content }}",
        "{{ x * 9 }}",
    ),
    *("{{ ('a' * 10**9)|length }}", "{{ m.content.center(10**9) }}", "{% macro f(n) %}{{ f(n) }}"),
    *("{% endmacro %}{{ f(1) }}", "{{ ''.__class__.__mro__ }}", "{{ messages|batch(10**9) }}"),
    *("{% set ns = namespace(x='a') %}", "{% set ns.x = ns.x ~ ns.x %}", "{{ ns.x|length }}"),
    *("{{ range(10**9)|list }}", "{{ raise_exception('x') }}", "{{ tools|tojson(indent=10**9) }}"),
    *("<|im_start|>assistant\n", "{% if a %}", "{% endif %}", "{{ '%10000000000d' % 1 }}"),
)


def templates(work: Path) -> Input:
    """A template put together from pieces, some of which are bombs."""
    from qwen3_mlx.text import ChatTemplate

    def run(rng: random.Random) -> None:
        text = "".join(rng.choice(PIECES) for _ in range(rng.randint(1, 12)))
        config = {"chat_template": text, "eos_token": "<|im_end|>"}
        model = model_with(work, {"tokenizer_config.json": json.dumps(config).encode()})
        ChatTemplate.from_dir(model).render([{"role": "user", "content": "hi"}])

    return run


def conversations(work: Path) -> Input:
    """A kept conversation, damaged: read, listed, exported, gone on with."""
    from qwen3_mlx.chat import export, journal
    from qwen3_mlx.options import GenerationOptions

    path = work / "sessions" / "2026-01-01-000000-0000.jsonl"

    def run(rng: random.Random) -> None:
        path.unlink(missing_ok=True)
        kept = journal.ChatJournal(path)
        turn = [{"role": role, "content": rng.choice(HOSTILE)} for role in ("user", "assistant")]
        kept.keep("demo", GenerationOptions(), turn)
        kept.close()
        lines = path.read_bytes().splitlines()
        at = rng.randrange(len(lines))
        line = json.dumps(mutate_json(json.loads(lines[at]), rng)).encode("utf-8", "surrogatepass")
        lines[at] = mutate_bytes(lines[at], rng) if rng.random() < 0.3 else line
        path.write_bytes(b"\n".join(lines) + b"\n" * rng.randint(0, 1))
        saved, taken = journal.take(path)
        export.as_markdown(saved)
        if taken is not None:
            taken.keep("demo", GenerationOptions(), [*saved.messages, *turn])
            taken.close()
            assert journal.read(path).messages[-2:] == turn, "a turn behind the damage is lost"

    return run


def prompts(work: Path) -> Input:
    """A computed prompt, damaged: the same numbers are taken up, or none."""
    import mlx.core as mx

    from qwen3_mlx.chat.prompt_store import PromptStore
    from qwen3_mlx.engine.prefill import prefill
    from qwen3_mlx.engine.prompt_cache import PromptCache

    runtime = qwen3_mlx.load("demo").runtime
    store, tokens = PromptStore(work / "prompts"), [n % 50 + 60 for n in range(40)]
    cache = PromptCache(runtime.network)
    prefill(runtime.network, tokens, cache)
    store.save(runtime, tokens, cache)
    file = next(store.folder.iterdir())
    data = file.read_bytes()

    def run(rng: random.Random) -> None:
        damaged = mutate_bytes(data, rng)
        file.write_bytes(damaged)
        found = PromptCache(runtime.network)
        store.restore(runtime, tokens, found)
        for had, has in zip(cache.layers, found.layers, strict=True) if found.tokens else ():
            pairs = zip(had.stored(40).values(), has.stored(40).values(), strict=True)
            assert all(mx.array_equal(a, b).item() for a, b in pairs), "a damage was taken up"

    return run


def calls(work: Path) -> Input:
    """A model's text with tool calls in it, damaged, in any pieces."""
    from qwen3_mlx.text.tool_calls import parse_tool_call

    good = '<tool_call>\n{"name": "f", "arguments": {"a": [1, {"b": "c"}]}}\n</tool_call>'
    coder = "<tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>"

    def run(rng: random.Random) -> None:
        text = mutate_bytes((good * 3 + coder * 2).encode(), rng).decode("utf-8", "replace")
        with contextlib.suppress(ValueError):  # its word for a text that is no call
            parse_tool_call(rng.choice(("", *HOSTILE)) + text)

    return run


def settings(work: Path) -> Input:
    """config.toml, damaged or with odd values."""
    from qwen3_mlx.cli.settings import settings as own

    def run(rng: random.Random) -> None:
        odd = ("5", "-1", "nan", "1e999", "9" * 5000, '"x"', "true", "[[]]", "{a = 1}", "'\x7f'")
        lines = [f"{name} = {rng.choice(odd)}" for name in rng.sample(sorted(own.KEYS), 4)]
        data = mutate_bytes("\n".join(lines).encode(), rng) if rng.random() < 0.5 else None
        own.file().parent.mkdir(parents=True, exist_ok=True)
        own.file().write_bytes(data or "\n".join(lines).encode())
        own.read_all()

    return run


def recipes(work: Path) -> Input:
    """A recipe's file with odd values."""
    from qwen3_mlx.quantize import recipe_file

    odd = ("4", "[1]", "{mode = [1]}", "{bits = nan}", '"bf16"', "true", "-1", "{bits = 3}", "''")
    names = ("default", "v", "router", "expert_down", "nonsense")

    def run(rng: random.Random) -> None:
        head = [f"bound = {rng.choice(odd)}"] * rng.randint(0, 1)
        bits = [f"{name} = {rng.choice(odd)}" for name in names if rng.random() < 0.7]
        file = work / "mine.toml"
        file.write_text("\n".join([*head, "[bits]", *bits]))
        recipe_file.read(file)

    return run


CAMPAIGNS: dict[str, Callable[[Path], Input]] = {
    "config": files("config.json"),
    "tokenizer": files("tokenizer.json"),
    "tokenizer-config": files("tokenizer_config.json"),
    "generation-config": files("generation_config.json"),
    "templates": templates,
    "conversations": conversations,
    "prompts": prompts,
    "calls": calls,
    "settings": settings,
    "recipes": recipes,
    **INPUTS,
    **KILLS,
    **CHATS,
    **TOOLS,
}


def work(name: str, seed: int, first: int, last: int, folder: Path, seconds: float) -> None:
    """A worker: says each number before its input is tried, and what was wrong with it.

    SIGPROF ends it, within C as well, once an input has taken `seconds` of processor time.
    """
    one = CAMPAIGNS[name](folder)
    for number in range(first, last):
        print(json.dumps({"begins": number}), flush=True)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            one(random.Random(f"{name} {seed} {number}"))
        except Qwen3Error:
            pass
        except BaseException as error:
            fault = f"{type(error).__name__}: {error}"[:300]
            print(json.dumps({"fault": fault, "number": number}), flush=True)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        if grown > GROWTH and sys.platform == "linux":
            print(json.dumps({"fault": f"grew by {grown:,} bytes", "number": number}), flush=True)


def faults(
    name: str, seed: int, count: int, seconds: float = SECONDS, first: int = 0
) -> Iterator[str]:
    """Every fault of a campaign, from the input `first` to that before `count`."""
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder) / "said.jsonl"
        while first < count:
            parts = (name, seed, first, count, Path(folder) / "work", seconds)
            Path(folder, "work").mkdir(exist_ok=True)
            command = [sys.executable, "-m", "tests.campaign", "--worker", *map(str, parts)]
            own = os.environ | {"QWEN3_MLX_HOME": f"{folder}/home"}  # never the user's own files
            with said.open("w") as out:
                child = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL, env=own)
            still = 300 if name in (*KILLS, *CHATS, *TOOLS) else STILL
            _wait(child, said, still)
            records = _lines(said)
            wrong = [one for one in records if "fault" in one]
            yield from (f"{name} {seed} {one['number']}: {one['fault']}" for one in wrong)
            if child.returncode == 0:
                return
            last = max((one["begins"] for one in records if "begins" in one), default=first)
            yield f"{name} {seed} {last}: {how(child.returncode, seconds, still)}"
            first = last + 1


def side_by_side(name: str, asked: argparse.Namespace) -> Iterator[str]:
    """The faults of a campaign whose inputs are dealt out to `asked.at_once` workers."""
    found: Queue[str | None] = Queue()
    cuts = [
        asked.first + n * (asked.count - asked.first) // asked.at_once
        for n in range(asked.at_once + 1)
    ]

    def share(first: int, last: int) -> None:
        try:
            for fault in faults(name, asked.seed, last, asked.seconds, first):
                found.put(fault)
        finally:
            found.put(None)

    spans = itertools.pairwise(cuts)
    threads = [threading.Thread(target=share, args=span, daemon=True) for span in spans]
    for thread in threads:
        thread.start()
    left = len(threads)
    while left:
        fault = found.get()
        left -= fault is None
        if fault is not None:
            yield fault


def how(code: int, seconds: float, still: float) -> str:
    """How a worker ended that didn't end by itself."""
    if code == -signal.SIGPROF:
        return f"more than {seconds:g} s of processor time"
    return f"stood still for {still:g} s" if code == -signal.SIGKILL else f"exit code {code}"


def _wait(child: subprocess.Popen[bytes], said: Path, still: float) -> None:
    """Wait for the worker's end; one that says nothing for `still` seconds is killed."""
    size, since = 0, time.monotonic() + 30  # it imports MLX first
    while child.poll() is None:
        time.sleep(0.1)
        if said.stat().st_size != size:
            size, since = said.stat().st_size, time.monotonic()
        if time.monotonic() - since > still:
            child.kill()
            child.wait()


def _lines(said: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in said.read_text().split("\n")[:-1]]


def main() -> int:
    """Run the campaigns that are asked for; prints a line each, and every fault."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", choices=["all", *CAMPAIGNS])
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of processor time")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=1, help="workers")
    asked, total = parser.parse_args(), 0
    for name in CAMPAIGNS if asked.name == "all" else (asked.name,):
        began, number = time.monotonic(), 0
        for fault in side_by_side(name, asked):
            number += 1
            print(f"  {fault}", flush=True)
        total += number
        took = time.monotonic() - began
        print(
            f"{name}: {asked.count - asked.first:,} inputs, {number} faults, {took:.0f} s",
            flush=True,
        )
    return int(total > 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(sys.argv[2], *map(int, sys.argv[3:6]), Path(sys.argv[6]), float(sys.argv[7]))
    else:
        sys.exit(main())
