"""What the server adds to a turn, and to a start: against the Python API on the same model.

    python -m benchmarks.serve_overhead [--model demo] [--turns 40] [--starts 5]

One client asks, one turn at a time. A turn over HTTP and the same turn through `Qwen3.stream` come
one after the other in shuffled order, each pair with a text of its own; the differences' median is
the overhead, of the first piece and of the whole answer. A start is from the process's beginning to
the first answer of `/health`; beside it one that loads the same model and ends. The processor's
seconds are worth more than the wall's on a busy machine; those of a turn are the server's, with
what it computes ahead for the next one, less the API's. On Linux also those of the one thread that
speaks HTTP, of a request for one token and of each further token: these need no other process to
compare with.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.record import write
from qwen3_mlx.events import Answer
from qwen3_mlx.model import Qwen3, load

SERVE = [sys.executable, "-c", "from qwen3_mlx.cli import main; main()", "serve"]
LOAD = "import sys; from qwen3_mlx import load; load(sys.argv[1]); print('loaded', flush=True)"
OPTIONS: dict[str, Any] = {"max_tokens": 32, "temperature": 0.0}
Times = tuple[float, float]


class Server:
    """A served model, and one connection to it that is kept."""

    def __init__(self, model: str) -> None:
        began = time.perf_counter()
        self.process = subprocess.Popen(
            [*SERVE, model, "--port", "0", "--quiet"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline().rpartition(":")[2])
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        self.connection.request("GET", "/health")
        self.connection.getresponse().read()
        self.started = time.perf_counter() - began

    def turn(self, text: str, tokens: int = OPTIONS["max_tokens"]) -> Times:
        """Seconds to the first piece of an answer, and to its end."""
        body = {"messages": [{"role": "user", "content": text}], "stream": True, **OPTIONS}
        body |= {"enable_thinking": False, "max_tokens": tokens}
        began, first = time.perf_counter(), 0.0
        headers = {"content-type": "application/json"}
        self.connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        response = self.connection.getresponse()
        while line := response.readline():
            if not first and b'"content":"' in line and b'"content":""' not in line:
                first = time.perf_counter() - began
        assert response.status == 200 and first
        return first, time.perf_counter() - began

    def http_seconds(self) -> float:
        """Seconds of the processor that its thread of HTTP, the first one, took so far."""
        pid = self.process.pid
        return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e9

    def close(self) -> float:
        """End it; seconds of the processor that it took."""
        self.connection.close()
        self.process.terminate()
        return waited(self.process)


def waited(process: subprocess.Popen[str]) -> float:
    """Seconds of the processor that a process took, once it ended."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process.communicate()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def api_turn(model: Qwen3, text: str) -> Times:
    """As `Server.turn`, without one."""
    began, first = time.perf_counter(), 0.0
    for event in model.stream(text, thinking=False, **OPTIONS):
        if not first and isinstance(event, Answer) and event.text:
            first = time.perf_counter() - began
    return first, time.perf_counter() - began


def turns(name: str, count: int, start: float) -> dict[str, Any]:
    """The overhead in seconds: medians, and the quarter below and above.

    start: the processor's seconds of a server that only starts and ends.
    """
    server, model, draw = Server(name), load(name), random.Random(1)
    over: dict[str, list[float]] = {"first_piece_s": [], "whole_s": []}
    alone, computed = list[float](), 0.0
    ways: list[Callable[[str], Times]] = [server.turn, lambda text: api_turn(model, text)]
    try:
        for n in range(-3, count):
            text = f"{draw.randrange(10**6)} tides: explain them in a few sentences."
            found: dict[int, Times] = {}
            for way in draw.sample((0, 1), 2):
                before = time.process_time()
                found[way] = ways[way](text)
                computed += way * (time.process_time() - before)
                time.sleep(0.05)  # what the server computes ahead has ended
            if n < 0:  # compiles, and caches
                continue
            alone.append(found[1][1])
            for index, values in enumerate(over.values()):
                values.append(found[0][index] - found[1][index])
    finally:
        served = server.close() - start
    result: dict[str, Any] = {"python_whole_s": statistics.median(alone)}
    result["processor_s"] = (served - computed) / (count + 3)
    for key, values in over.items():
        low, middle, high = statistics.quantiles(values, n=4)
        result[key] = {"median": middle, "quarter": low, "three_quarters": high}
    return result


def http_thread(name: str, count: int) -> dict[str, float]:
    """Seconds of the processor in the thread that speaks HTTP: of a request, and of a token."""
    server, draw, found = Server(name), random.Random(3), list[float]()
    try:
        for tokens in (1, 1, OPTIONS["max_tokens"]):  # the first of these loads modules
            began = server.http_seconds()
            for _ in range(count):
                server.turn(f"{draw.randrange(10**6)} tides: explain them.", tokens)
            found.append((server.http_seconds() - began) / count)
    finally:
        server.close()
    _, one, many = found
    return {"request_of_one_token_s": one, "token_s": (many - one) / (OPTIONS["max_tokens"] - 1)}


def serve_start(name: str) -> Times:
    server = Server(name)
    return server.started, server.close()


def load_start(name: str) -> Times:
    began = time.perf_counter()
    command = [sys.executable, "-c", LOAD, name]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    return time.perf_counter() - began, waited(process)


def starts(name: str, count: int) -> dict[str, Any]:
    """Seconds to /health and to a loaded model, and what the first has more: medians."""
    draw, found = random.Random(2), list[tuple[Times, Times]]()
    for _ in range(count):
        pair: dict[Callable[[str], Times], Times] = {}
        for way in draw.sample((serve_start, load_start), 2):
            pair[way] = way(name)
        found.append((pair[serve_start], pair[load_start]))
    result: dict[str, Any] = {}
    for index, kind in enumerate(("wall_s", "processor_s")):
        served, loaded = ([pair[side][index] for pair in found] for side in (0, 1))
        more = [one - other for one, other in zip(served, loaded, strict=True)]
        medians = map(statistics.median, (served, loaded, more))
        result[kind] = dict(zip(("health", "loaded", "more"), medians, strict=True))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--starts", type=int, default=5)
    asked = parser.parse_args()
    results: dict[str, Any] = {
        "load_average": os.getloadavg()[0],
        "start": starts(asked.model, asked.starts),
    }
    start = results["start"]["processor_s"]["health"]
    results["turn"] = turns(asked.model, asked.turns, start)
    if sys.platform == "linux":
        results["http_thread"] = http_thread(asked.model, asked.turns)
    print(json.dumps(results, indent=1))
    print(write(f"serve_overhead-{Path(asked.model).name}", results))


if __name__ == "__main__":
    main()
