"""Many requests, some of whose clients go away and some of which are no requests at all.

    python -m benchmarks.serve_load [N] [--killed 0.1] [--hostile 0.1] [--clients 80]

Starts the server with the bundled demo, room for 8 answers and a queue of 8, and sends N requests
in all dialects, streamed and not, with budgets, tools and forms, from ten times as many clients at
once as it computes. Some clients leave in the midst of an answer or of their own request, some
send bytes that are no JSON, or values that no field expects. Every answer must be whole, every
refusal a proper status in its dialect; a refusal for want of room is asked again. Memory, threads
and open files are read after every tenth, once nothing runs: they must stay about where they were
after the first, and the next request must work. Prints what came, and fails if anything else did.
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
from pathlib import Path
from typing import Any

from benchmarks.http_client import Heard, abandon, post
from benchmarks.http_client import request as bytes_of
from benchmarks.record import write

PROGRAM = [sys.executable, "-c", "from qwen3_mlx.cli import main; main()", "serve", "demo"]
GROWTH = 80_000_000
"""Bytes that may come on top after the first tenth: allocators keep some."""
BROKEN: tuple[bytes, ...] = (
    *(b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"messages": 3}', b'{"messages": [{"role": 1}]}'),
    *(b'{"messages": [], "max_tokens": "x"}', b'{"input": {}}', b'{"temperature": [1]}'),
)


SCHEMA = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}
HOSTILE: tuple[Any, ...] = (
    *(None, True, -1, 0, 1.5, 10**25, 1e300, "", "a" * 20_000, "\x00", "\ud800", [], {}, [[]]),
    *(
        {"type": 3},
        "<|im_end|>",
        "</think>",
        "auto",
        [{"a": [{}]}],
        {"type": "function"},
        "🎉" * 99,
    ),
)
EXTRAS: tuple[dict[str, Any], ...] = (
    *({}, {}, {}, {"thinking_budget": "auto"}, {"thinking_budget": {"floor": 2, "interval": 4}}),
    *({"guided_json": SCHEMA}, {"stop": ["\n"]}, {"temperature": 0, "top_k": 3, "min_p": 0.1}),
    *({"reasoning_effort": "minimal"}, {"enable_thinking": False}, {"logit_bias": {"7": 3}}),
)


def request(draw: random.Random) -> tuple[str, dict[str, Any]]:
    """A path and a body, in one of the dialects."""
    text = f"What is {draw.randrange(100)} + {draw.randrange(100)}?" + " Please." * draw.randrange(
        9
    )
    stream, most = draw.random() < 0.6, draw.choice([1, 8, 24])
    kind = draw.choice(["chat", "messages", "responses", "completions"])
    body = dict(draw.choice(EXTRAS))
    if kind == "responses":
        body |= {"input": text, "max_output_tokens": most}
    elif kind == "completions":
        body = {"prompt": text, "max_tokens": most}
    else:
        body |= {"messages": [{"role": "user", "content": text}], "max_tokens": most}
    if kind != "chat":
        body.pop("stop", None)  # the others have no such field, or another name
    elif draw.random() < 0.3:
        body["tools"] = [{"type": "function", "function": {"name": "sum", "parameters": SCHEMA}}]
    path = {"chat": "/v1/chat/completions"}.get(kind, f"/v1/{kind}")
    return path, body | {"stream": stream, "seed": draw.randrange(10**6)}


def spoiled(body: dict[str, Any], draw: random.Random) -> bytes:
    """A body that is none, or one with a value in it that its field doesn't expect."""
    if draw.random() < 0.3:
        return draw.choice(BROKEN)
    copy = json.loads(json.dumps(body))
    place, key = copy, draw.choice([*copy])
    while draw.random() < 0.6 and isinstance(place[key], dict | list) and place[key]:
        place = place[key]
        key = draw.choice([*place] if isinstance(place, dict) else range(len(place)))
    place[key] = draw.choice(HOSTILE)
    return json.dumps(copy).encode()


def is_whole(path: str, stream: bool, heard: Heard) -> bool:
    """Whether an answer came to its end."""
    if stream:
        ends = (b"[DONE]", b"message_stop", b"response.completed", b"response.incomplete")
        return any(end in heard.body for end in ends)
    return not json.loads(heard.body).get("error")


class Load:
    """Sends requests and counts what becomes of them."""

    def __init__(self, port: int, killed: float, hostile: float, seed: int) -> None:
        self.port, self.killed, self.hostile = port, killed, hostile
        self.draw = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

    async def one(self) -> None:
        """One request, as often as it is told to come back."""
        path, body = request(self.draw)
        fate = self.draw.random()
        if fate < self.killed:
            await self.leave(path, body)
        elif fate < self.killed + self.hostile:
            await self.spoil(path, spoiled(body, self.draw))
        else:
            await self.honest(path, body)

    async def leave(self, path: str, body: dict[str, Any]) -> None:
        """Go at a random moment: in the request, behind some bytes of the answer, or some time."""
        if self.draw.random() < 0.2:
            whole = bytes_of(self.port, path, json.dumps(body).encode())
            await abandon(self.port, whole[: self.draw.randrange(len(whole))])
            self.counts["left in the request"] += 1
            return
        most, patience = self.draw.choice([0, 1, 300, 2_000]), self.draw.uniform(0.0, 2.0)
        body = body | {"max_output_tokens" if "input" in body else "max_tokens": 200}
        await post(self.port, body, path, leave_bytes=most, wait=patience)
        self.counts["left in the answer"] += 1

    async def spoil(self, path: str, sent: bytes) -> None:
        """Most are refused; a value that some field takes after all is answered."""
        heard = await post(self.port, sent, path, leave_bytes=10**9, wait=120)
        known = heard.status in (200, 400, 413, 503)
        right = known and (heard.status == 200 or b'"error"' in heard.body)
        self.note(f"hostile: {heard.status}", right, f"{path} {sent[:200]!r}", heard)

    async def honest(self, path: str, body: dict[str, Any]) -> None:
        """Until it is answered; each refusal has it wait longer, as clients do."""
        patience = 1.0
        while True:
            heard = await post(self.port, body, path)
            if heard.status != 503:
                break
            self.note("told to come back", b'"error"' in heard.body, path, heard)
            await asyncio.sleep(self.draw.uniform(patience, 3 * patience))
            patience = min(2 * patience, 16.0)
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


def used(process: subprocess.Popen[str]) -> dict[str, int | None]:
    """Resident bytes, threads and open files; None where the system doesn't say."""
    asked = ["ps", "-o", "rss=", "-p", str(process.pid)]
    said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    found: dict[str, int | None] = {"bytes": 1024 * int(said), "threads": None, "files": None}
    proc = Path(f"/proc/{process.pid}")
    if proc.exists():
        found["threads"] = len(list((proc / "task").iterdir()))
        found["files"] = len(list((proc / "fd").iterdir()))
    return found


def has_grown(tenths: list[dict[str, int | None]]) -> list[str]:
    """What there is more of than after the first tenth."""
    grown = []
    for name, most in (("bytes", GROWTH), ("threads", 0), ("files", 2)):
        first, last = tenths[0][name], tenths[-1][name]
        if first is not None and last is not None and last - first > most:
            grown.append(name)
    return grown


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
    parser.add_argument("--hostile", type=float, default=0.1)
    parser.add_argument("--clients", type=int, default=80)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    limits = ["--port", "0", "--quiet", "--parallel", "8", "--queue", "8"]
    limits += ["--prefix-memory", "0.05"]
    process = subprocess.Popen([*PROGRAM, *limits], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline().rpartition(":")[2])
        load = Load(port, asked.killed, asked.hostile, asked.seed)
        began, tenths = time.perf_counter(), []
        for _ in range(10):
            asyncio.run(load.run(asked.requests // 10, asked.clients))
            health = settled(port)
            tenths.append(used(process))
            print(dict(load.counts), tenths[-1], file=sys.stderr, flush=True)
        asyncio.run(load.honest(*request(load.draw)))
        found = {**load.counts, "seconds": round(time.perf_counter() - began, 1), "health": health}
        found |= {"tenths": tenths, "grown": has_grown(tenths)}
    finally:
        process.terminate()
    found["exit_code"] = process.wait(60)
    right = not load.wrong and health["status"] == "ok" and not found["exit_code"]
    right = right and not health["running"] and not health["faults"] and not found["grown"]
    print(json.dumps(found, indent=1), *load.wrong[:20], sep="\n")
    print(write("serve_load", found | {"right": right, "wrong": load.wrong[:20]}))
    raise SystemExit(not right)


if __name__ == "__main__":
    main()
