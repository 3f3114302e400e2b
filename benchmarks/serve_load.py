"""Many requests, some of whose clients go away and some of which are no requests at all.

    python -m benchmarks.serve_load [N] [--killed 0.1] [--malformed 0.05] [--clients 80]

Starts the server with the bundled demo, room for 8 answers and a queue of 8, and sends N requests
in all dialects, streamed and not, from ten times as many clients at once as it computes. Every
answer must be whole, every refusal a proper status in its dialect; a refusal for want of room is
asked again. Afterwards nothing may run or wait, memory must be about where it was after the first
tenth, and the next request must work. Prints what came, and fails if anything else did.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from typing import Any

from benchmarks.http_client import Heard, post
from benchmarks.record import write

PROGRAM = [sys.executable, "-c", "from qwen3_mlx.cli import main; main()", "serve", "demo"]
GROWTH = 80_000_000
"""Bytes that may come on top after the first tenth: allocators keep some."""
BROKEN: tuple[bytes, ...] = (
    *(b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"messages": 3}', b'{"messages": [{"role": 1}]}'),
    *(b'{"messages": [], "max_tokens": "x"}', b'{"input": {}}', b'{"temperature": [1]}'),
)


def request(draw: random.Random) -> tuple[str, dict[str, Any]]:
    """A path and a body, in one of the dialects."""
    text = f"What is {draw.randrange(100)} + {draw.randrange(100)}?" + " Please." * draw.randrange(
        9
    )
    stream, most = draw.random() < 0.6, draw.choice([1, 8, 24])
    kind = draw.choice(["chat", "messages", "responses", "completions"])
    if kind == "responses":
        body: dict[str, Any] = {"input": text, "max_output_tokens": most}
    elif kind == "completions":
        body = {"prompt": text, "max_tokens": most}
    else:
        body = {"messages": [{"role": "user", "content": text}], "max_tokens": most}
    path = {"chat": "/v1/chat/completions"}.get(kind, f"/v1/{kind}")
    return path, body | {"stream": stream, "seed": draw.randrange(10**6)}


def is_whole(path: str, stream: bool, heard: Heard) -> bool:
    """Whether an answer came to its end."""
    if stream:
        ends = (b"[DONE]", b"message_stop", b"response.completed", b"response.incomplete")
        return any(end in heard.body for end in ends)
    return not json.loads(heard.body).get("error")


class Load:
    """Sends requests and counts what becomes of them."""

    def __init__(self, port: int, killed: float, malformed: float, seed: int) -> None:
        self.port, self.killed, self.malformed = port, killed, malformed
        self.draw = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

    async def one(self) -> None:
        """One request, as often as it is told to come back."""
        path, body = request(self.draw)
        fate, leave = self.draw.random(), self.draw.choice([0, 0, 1, 3])
        if fate < self.killed:
            patience = self.draw.uniform(0.0, 0.5)
            await post(self.port, body, path, leave_after=leave, wait=patience)
            self.counts["killed"] += 1
        elif fate < self.killed + self.malformed:
            heard = await post(self.port, self.draw.choice(BROKEN), path)
            self.note("malformed", heard.status == 400 and b'"error"' in heard.body, path, heard)
        else:
            await self.honest(path, body)

    async def honest(self, path: str, body: dict[str, Any]) -> None:
        while True:
            heard = await post(self.port, body, path)
            if heard.status != 503:
                break
            self.note("told to come back", b'"error"' in heard.body, path, heard)
            await asyncio.sleep(self.draw.uniform(1.0, 3.0))
        whole = heard.status == 200 and is_whole(path, body["stream"], heard)
        self.note("answered", whole, path, heard)

    def note(self, what: str, right: bool, path: str, heard: Heard) -> None:
        self.counts[what] += 1
        if not right:
            self.wrong.append(f"{what}: {path} {heard.status} {heard.body[-300:]!r}")

    async def run(self, requests: int, clients: int) -> None:
        gate = asyncio.Semaphore(clients)

        async def guarded() -> None:
            async with gate:
                try:
                    await self.one()
                except Exception as error:
                    self.wrong.append(f"{type(error).__name__}: {error}")

        await asyncio.gather(*(guarded() for _ in range(requests)))


def get(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as response:
        return str(response.read().decode())


def memory(process: subprocess.Popen[str]) -> int:
    asked = ["ps", "-o", "rss=", "-p", str(process.pid)]
    return 1024 * int(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)


def settled(port: int) -> dict[str, Any]:
    """What /health says once nothing runs, or after half a minute."""
    for _ in range(300):
        health: dict[str, Any] = json.loads(get(port, "/health"))
        if not health["running"] and not health["waiting"]:
            break
        time.sleep(0.1)
    return health


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("requests", nargs="?", type=int, default=10_000)
    parser.add_argument("--killed", type=float, default=0.1)
    parser.add_argument("--malformed", type=float, default=0.05)
    parser.add_argument("--clients", type=int, default=80)
    asked = parser.parse_args()
    limits = ["--port", "0", "--quiet", "--parallel", "8", "--queue", "8"]
    limits += ["--prefix-memory", "0.05"]
    process = subprocess.Popen([*PROGRAM, *limits], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline().rpartition(":")[2])
        load, began = Load(port, asked.killed, asked.malformed, 0), time.perf_counter()
        asyncio.run(load.run(asked.requests // 10, asked.clients))
        settled(port)
        before = memory(process)
        asyncio.run(load.run(asked.requests - asked.requests // 10, asked.clients))
        health, after = settled(port), memory(process)
        asyncio.run(load.honest(*request(load.draw)))
        found = {**load.counts, "seconds": round(time.perf_counter() - began, 1), "health": health}
        found |= {"memory_after_a_tenth": before, "memory_at_the_end": after}
    finally:
        process.terminate()
    found["exit_code"] = process.wait(60)
    right = not load.wrong and health["status"] == "ok" and not found["exit_code"]
    right = right and not health["running"] and not health["faults"] and after - before < GROWTH
    print(json.dumps(found, indent=1), *load.wrong[:20], sep="\n")
    print(write("serve_load", found | {"right": right, "wrong": load.wrong[:20]}))
    raise SystemExit(not right)


if __name__ == "__main__":
    main()
