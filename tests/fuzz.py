"""Bytes made to break what reads them: each target takes them, or raises an error of ours.

    python -m tests.fuzz header --count 20000             # changed seeds, the same every time
    uv run --with atheris python -m tests.fuzz all --seconds 60 --guided   # led by coverage
    nice uv run --with atheris python -m tests.fuzz all --seconds 3600 --guided   # a night

The package is imported within the targets, so that atheris can watch it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

DEMO = Path(__file__).parents[1] / "qwen3_mlx" / "demo"
Try = Callable[[bytes], None]
HEADER = {
    "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
    "__metadata__": {"x": ""},
}
HERMES = '<tool_call>\n{"name": "f", "arguments": {"a": [1, {"b": "c"}]}}\n</tool_call>'
CODER = "<tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>"
RESULTS: list[dict[str, Any]] = [
    {"protocolVersion": "2025-06-18", "serverInfo": {"name": "s"}},
    {"tools": [{"name": "f", "inputSchema": {"type": "object"}, "annotations": {}}]},
    {"content": [{"type": "text", "text": "x"}, {"type": "resource", "resource": {"uri": "u"}}]},
]


class Target(NamedTuple):
    """What reads the bytes, made with a folder of its own, and sound bytes to begin with."""

    make: Callable[[Path], Try]
    seeds: list[bytes]


def _header(folder: Path) -> Try:
    from qwen3_mlx.checkpoint.headers import read_header

    file = folder / "model.safetensors"

    def one(data: bytes) -> None:
        text = data[1:]  # the first byte says whether the length before it is right
        raw = data[:1] > b"\x7f"
        file.write_bytes(text if raw else len(text).to_bytes(8, "little") + text + bytes(16))
        read_header(file)

    return one


def _gguf(folder: Path) -> Try:
    from qwen3_mlx.gguf.header import TooShort, parse

    def one(data: bytes) -> None:
        with contextlib.suppress(TooShort):
            parse(data, len(data), folder / "model.gguf")

    return one


def _gguf_seed() -> bytes:
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    entries = text("general.alignment") + struct.pack("<II", 4, 8)
    entries += text("list") + struct.pack("<IIQ", 9, 8, 1) + text("x")
    tensor = text("output.weight") + struct.pack("<IQQIQ", 2, 4, 2, 0, 0)
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 2) + entries + tensor
    return head + bytes(-len(head) % 8 + 32)


def _tokenizer(folder: Path) -> Try:
    from qwen3_mlx.text.tokenizer import Tokenizer

    def one(data: bytes) -> None:
        (folder / "tokenizer.json").write_bytes(data)
        tokenizer = Tokenizer.from_dir(folder)
        tokenizer.decode(tokenizer.encode("Hé <|im_start|> 1"))
        tokenizer.split_markers("a<think>b")

    return one


def _tokenizer_seed() -> bytes:
    """As small as Qwen's kind can be: two letters, one merge, one marker."""
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    marker = {"id": 3, "content": "<|im_end|>", "special": True, "normalized": False}
    marker |= {"single_word": False, "lstrip": False, "rstrip": False}
    byte_level["use_regex"] = True
    whole = {"version": "1.0", "model": model, "added_tokens": [marker], "post_processor": None}
    whole |= {"normalizer": {"type": "NFC"}, "pre_tokenizer": byte_level, "decoder": byte_level}
    return json.dumps(whole).encode()


def _calls(folder: Path) -> Try:
    from qwen3_mlx.text import Mode, Splitter, Tokenizer
    from qwen3_mlx.text.tool_calls import parse_tool_call
    from tests.tiny_tokenizer import tiny_backend

    tokenizer = Tokenizer(tiny_backend())
    tools = [{"name": "f", "parameters": {"properties": {"a": {"type": "integer"}, "b": {}}}}]

    def one(data: bytes) -> None:
        text = data.decode("utf-8", "replace")
        with contextlib.suppress(ValueError):  # its word for a text that is no call
            json.dumps(parse_tool_call(text, tools).arguments)
        said = [_events(tokenizer.encode(text), tools, step, Mode, Splitter) for step in (1, 7)]
        assert said[0] == said[1], "the pieces make a difference"

    def _events(ids: list[int], tools: Any, step: int, mode: Any, splitter: Any) -> list[Any]:
        split = splitter(tokenizer, mode(True, None, True), tools)
        found = [e for at in range(0, len(ids), step) for e in split.push(ids[at : at + step])]
        merged: list[list[Any]] = []
        for event in (*found, *split.flush()):
            kind, text = type(event).__name__, getattr(event, "text", None)
            if merged and text is not None and merged[-1][0] == kind:
                merged[-1][1] += text
            else:
                merged.append([kind, getattr(event, "arguments", None) if text is None else text])
        return merged

    return one


def _mcp(folder: Path) -> Try:
    from qwen3_mlx.errors import ToolError
    from qwen3_mlx.tools.client import McpClient
    from qwen3_mlx.tools.tool import Cancel
    from qwen3_mlx.tools.transport import Message, parsed

    class Wire:
        """A server that gives the bytes' lines as its answers, one a request."""

        ended = ""

        def __init__(self, receiver: McpClient, lines: list[bytes]) -> None:
            self._receiver, self._lines = receiver, lines

        def send(self, message: Message) -> None:
            if "id" not in message or "method" not in message:
                return
            line = self._lines.pop(0) if self._lines else b""
            for one in parsed(line.replace(b'"#"', str(message["id"]).encode())):
                self._receiver.received(one)
            self._receiver.lost("no more")

        def close(self) -> None:
            self.ended = "closed"

    def one(data: bytes) -> None:
        lines = data.split(b"\n")
        try:
            client = McpClient("s", lambda receiver: Wire(receiver, lines), lambda: None)  # type: ignore[arg-type]  # it is the client
            client.list_tools()
        except ToolError:
            return
        client.call("f", {}, Cancel(), 1.0)

    return one


def _mcp_seed() -> bytes:
    answers = ({"jsonrpc": "2.0", "id": "#", "result": result} for result in RESULTS)
    return b"\n".join(json.dumps(answer).encode() for answer in answers)


def _journal(folder: Path) -> Try:
    from qwen3_mlx.chat import export, journal

    def one(data: bytes) -> None:
        file = folder / "2026-01-01-000000-0000.jsonl"
        file.write_bytes(data)
        saved = journal.read(file)
        export.as_markdown(saved)
        json.dumps(saved.messages)

    return one


def _journal_seed() -> bytes:
    turn = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    change = {"keep": 0, "add": turn, "model": "demo", "options": {"temperature": 0.5}}
    lines = ({"format": "qwen3-mlx chat", "version": 1}, change, change | {"keep": 1})
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def _config(folder: Path) -> Try:
    from qwen3_mlx.config import Qwen3Config

    def one(data: bytes) -> None:
        (folder / "config.json").write_bytes(data)
        Qwen3Config.from_dir(folder)

    return one


TARGETS = {
    "header": Target(_header, [b"\0" + json.dumps(HEADER).encode()]),
    "gguf": Target(_gguf, [_gguf_seed()]),
    "tokenizer": Target(_tokenizer, [_tokenizer_seed()]),
    "calls": Target(_calls, [HERMES.encode(), CODER.encode(), b"<think>\nx\n</think>\n\ny"]),
    "mcp": Target(_mcp, [_mcp_seed()]),
    "journal": Target(_journal, [_journal_seed()]),
    "config": Target(_config, [(DEMO / "config.json").read_bytes()]),
}


def checked(one: Try) -> Try:
    """`one`, with our own errors taken for what they are."""

    def run(data: bytes) -> None:
        from qwen3_mlx.errors import Qwen3Error

        with contextlib.suppress(Qwen3Error):
            one(data)

    return run


def deep(rng: random.Random) -> bytes:
    """JSON nested about as far as it can be read."""
    depth = rng.choice((300, 900, 980, 5000))
    return rng.choice((b"[", b'{"a":')) * depth + b"1" + rng.choice((b"]", b"}")) * depth


def changed(seeds: list[bytes], rng: random.Random) -> bytes:
    """A seed, with bytes changed, or values where it is lines of JSON."""
    from tests.corpus.mutate import mutate_bytes, mutate_json

    data = rng.choice(seeds)
    lines = data.lstrip(b"\0").split(b"\n")
    with contextlib.suppress(ValueError, RecursionError):
        if rng.random() < 0.6:
            at = rng.randrange(len(lines))
            lines[at] = json.dumps(mutate_json(json.loads(lines[at]), rng)).encode()
            if rng.random() < 0.1:
                lines[at] = lines[at].replace(b"1", deep(rng), 1)
            return data[: len(data) - len(data.lstrip(b"\0"))] + b"\n".join(lines)
    return mutate_bytes(data, rng)


def hunt(name: str, seed: int, count: int, seconds: float, folder: Path) -> list[str]:
    """Up to `count` changed seeds, as long as there is time; returns the faults, input by input."""
    target, found = TARGETS[name], []
    one, ends = checked(target.make(folder)), time.monotonic() + seconds
    for number in range(count):
        data = changed(target.seeds, random.Random(f"{name} {seed} {number}"))
        fault: Any = None
        with warnings.catch_warnings(record=True) as said:  # they would reach the terminal
            warnings.simplefilter("always")
            try:
                one(data)
            except BaseException as error:
                fault = error
        for wrong in (*([fault] if fault else []), *(warning.message for warning in said)):
            found.append(f"{name} {seed} {number}: {type(wrong).__name__}: {wrong}"[:300])
        if time.monotonic() > ends:
            break
    return found


def guided(name: str, seed: int, seconds: int, folder: Path) -> None:
    """Let atheris lead: it ends the process at the first fault, and says the input."""
    import atheris  # type: ignore[import-not-found]  # installed for this alone

    with atheris.instrument_imports(include=["qwen3_mlx"]):
        one = checked(TARGETS[name].make(folder))
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, data in enumerate(TARGETS[name].seeds):
        (corpus / str(number)).write_bytes(data)
    limits = [
        f"-max_total_time={seconds}",
        f"-seed={seed + 1}",
        "-timeout=10",
        "-rss_limit_mb=4096",
    ]
    where = [f"-artifact_prefix={tempfile.gettempdir()}/{name}-", str(corpus)]

    def mutated(data: bytes, largest: int, number: int) -> bytes:
        """Half of them by values, which coverage doesn't lead to through json's C."""
        if number % 2:
            return bytes(atheris.Mutate(data, largest))
        return changed([data], random.Random(number))[:largest]

    options = [sys.argv[0], *limits, "-print_final_stats=1", *where]
    atheris.Setup(options, one, custom_mutator=mutated)
    atheris.Fuzz()


def main() -> int:
    """Try the targets that are asked for; prints each fault, and a line of counts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", choices=["all", *TARGETS])
    parser.add_argument("--count", type=int, default=10**9)
    parser.add_argument("--seconds", type=int, default=60, help="of each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guided", action="store_true", help="by atheris")
    asked, total = parser.parse_args(), 0
    for name in TARGETS if asked.name == "all" else (asked.name,):
        if asked.guided and asked.name == "all":
            command = [sys.executable, "-m", "tests.fuzz", name, "--guided"]
            command += ["--seconds", str(asked.seconds), "--seed", str(asked.seed)]
            total += subprocess.run(command, check=False).returncode != 0
            continue
        with tempfile.TemporaryDirectory() as folder:
            if asked.guided:
                guided(name, asked.seed, asked.seconds, Path(folder))
            found = hunt(name, asked.seed, asked.count, asked.seconds, Path(folder))
        print(*found, f"{name}: {len(found)} faults", sep="\n", flush=True)
        total += len(found)
    return int(total > 0)


if __name__ == "__main__":
    sys.exit(main())
