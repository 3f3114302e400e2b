"""The servers that `benchmarks.serve` measures, as processes, and a checkpoint for them."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.text import Tokenizer


@dataclass
class Subject:
    """A server under test."""

    name: str
    command: list[str]
    port: int
    model: str
    ends: dict[str, float]
    process: subprocess.Popen[bytes] | None = None
    found: dict[str, list[Any]] = field(default_factory=dict)

    def start(self) -> float:
        """Start it; returns seconds until it answers."""
        began = time.perf_counter()
        self.process = subprocess.Popen(
            self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v1/models", timeout=5).close()
                return time.perf_counter() - began
            except OSError:
                if self.process.poll() is not None:
                    raise RuntimeError(
                        f"{self.name} ended with {self.process.returncode}"
                    ) from None
                time.sleep(0.05)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()

    def ps(self, what: str) -> str:
        assert self.process is not None
        asked = ["ps", "-o", f"{what}=", "-p", str(self.process.pid)]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()

    def memory(self) -> int:
        """Resident bytes."""
        return int(self.ps("rss")) * 1024

    def cpu(self) -> float:
        """Seconds of processor time so far."""
        assert self.process is not None
        stat = Path(f"/proc/{self.process.pid}/stat")
        if stat.exists():
            parts = stat.read_text().rpartition(")")[2].split()
            return (int(parts[11]) + int(parts[12])) / 100
        minutes, _, seconds = self.ps("time").rpartition(":")
        return 60 * float(minutes or 0) + float(seconds)

    def metrics(self) -> dict[str, float]:
        """What it says of itself, by name; empty where it says nothing."""
        try:
            address = f"http://127.0.0.1:{self.port}/metrics"
            with urllib.request.urlopen(address, timeout=5) as answer:
                lines = [line.split() for line in answer.read().decode().splitlines()]
        except OSError:
            return {}
        return {line[0]: float(line[1]) for line in lines if len(line) == 2}

    def trying(self) -> bool:
        """Whether it says that it tries kernels."""
        return bool(self.metrics().get("qwen3_mlx_trying_kernels", 0))

    def passes_per_step(self, since: tuple[float, float] = (0, 0)) -> tuple[float, Any]:
        """Forward passes of a step since then, 0 where nobody counts them; and the counts."""
        found = self.metrics()
        if not found:
            return 0.0, since
        now = found["qwen3_mlx_passes_total"], found["qwen3_mlx_steps_total"]
        return (now[0] - since[0]) / max(now[1] - since[1], 1), now

    def body(self, text: str, tokens: int) -> dict[str, Any]:
        """A request for exactly so many tokens: no end is drawn."""
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0.7,
            "logit_bias": self.ends,
            "chat_template_kwargs": {"enable_thinking": False},
        }


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def subjects_of(model: Path, parallel: int) -> list[Subject]:
    ends = {str(one): -100.0 for one in Tokenizer.from_dir(model).eos_ids}
    ours, theirs = free_port(), free_port()
    program = [sys.executable, "-c", "from qwen3_mlx.cli import main; main()", "serve", str(model)]
    limits = ["--parallel", str(parallel), "--queue", "1000", "--quiet"]
    peer = [sys.executable, "-m", "mlx_lm", "server", "--model", str(model)]
    peer += ["--port", str(theirs), "--log-level", "ERROR"]
    return [
        Subject("qwen3-mlx", [*program, "--port", str(ours), *limits], ours, "any", ends),
        Subject("mlx-lm", peer, theirs, str(model), ends),
    ]


def random_model(shape: str, tokenizer: Path, folder: Path) -> Path:
    """A checkpoint of `shape` in 4 bits with random weights, written into `folder`.

    In a process of its own, so that none of the device's memory stays with this one.
    """
    program = "from sys import argv; from benchmarks.served import write_random as w; w(*argv[1:])"
    asked = [sys.executable, "-c", program, shape, str(tokenizer), str(folder)]
    subprocess.run(asked, check=True)
    return folder


def write_random(shape: str, tokenizer: str, folder: str) -> None:
    """Write the files of `random_model`."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    from qwen3_mlx.bench.random_network import config_values, network

    values = config_values(shape, "4bit")
    ids = Tokenizer.from_dir(tokenizer)
    values |= {"vocab_size": max(ids.vocab_size, values["vocab_size"])}
    values["eos_token_id"] = min(ids.eos_ids)
    arrays = dict(tree_flatten(network(Qwen3Config.from_dict(values)).parameters()))
    mx.save_safetensors(str(Path(folder, "model.safetensors")), arrays, {"format": "mlx"})
    Path(folder, "config.json").write_text(json.dumps(values), "utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(tokenizer, name), folder)
