"""``qwen3-mlx serve`` as a process: where it listens, how it ends, what keeps it from beginning."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from qwen3_mlx.cli.commands import serve
from tests.serve.server import Client, rest

PROGRAM = [sys.executable, "-c", "from qwen3_mlx.cli import main; main()", "serve"]


@contextmanager
def program(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([*PROGRAM, *arguments], env=os.environ | environment, **pipes)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, err = process.communicate(timeout=60)
    return process.returncode, err


def address(process: subprocess.Popen[str]) -> Client:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("http://127.0.0.1:"), line
    return Client(int(line.rpartition(":")[2]))


def test_it_tells_its_address_and_answers_and_ends_at_sigterm() -> None:
    with program("demo", "--port", "0") as process:
        client = address(process)
        body = {"messages": [{"role": "user", "content": "What is 12 + 7?"}]}
        assert "19" in client.ok("/v1/chat/completions", body)["choices"][0]["message"]["content"]
        process.send_signal(signal.SIGTERM)
        code, err = ended(process)
    assert code == 0
    assert f"OPENAI_BASE_URL=http://127.0.0.1:{client.port}/v1" in err
    assert "generated (" in err and "Traceback" not in err
    assert "What is" not in err and "12 + 7" not in err, "what is said is not logged"


def test_ctrl_c_ends_it_with_the_exit_code_of_ctrl_c() -> None:
    with program("demo", "--port", "0", "--quiet") as process:
        client = address(process)
        assert client.get("/health").status == 200
        process.send_signal(signal.SIGINT)
        code, err = ended(process)
    assert code == 130 and "Traceback" not in err


def test_sigterm_lets_an_answer_end_and_takes_nothing_new() -> None:
    with program("demo", "--port", "0", "--drain", "20") as process:
        client = address(process)
        body = {"messages": [{"role": "user", "content": "Tell me a story."}], "max_tokens": 400}
        body |= {"stream": True, "logit_bias": end_of_turn(client)}
        running = client.begin("/v1/chat/completions", body, read=600)
        process.send_signal(signal.SIGTERM)
        said = rest(running)
        code, _ = ended(process)
    assert code == 0 and b"data: [DONE]" in said and b'"finish_reason":"length"' in said


def test_an_answer_that_does_not_end_in_time_ends_with_an_error() -> None:
    with program("demo", "--port", "0", "--drain", "0.2") as process:
        client = address(process)
        body: dict[str, Any] = {"messages": [{"role": "user", "content": "Tell me a story."}]}
        body |= {"stream": True, "logit_bias": end_of_turn(client), "max_tokens": 3000}
        running = client.begin("/v1/chat/completions", body, read=600)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        said = rest(running)
        code, _ = ended(process)
    assert code == 0 and time.monotonic() - began < 10
    assert b"shutting_down" in said and b"[DONE]" not in said


def test_a_second_ctrl_c_does_not_wait() -> None:
    with program("demo", "--port", "0", "--drain", "100") as process:
        client = address(process)
        body: dict[str, Any] = {"messages": [{"role": "user", "content": "Tell me a story."}]}
        body |= {"stream": True, "logit_bias": end_of_turn(client), "max_tokens": 3900}
        with client.begin("/v1/chat/completions", body, read=600):
            first_ctrl_c(process, client)
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            code, err = ended(process)
    assert code == 130 and "Traceback" not in err and time.monotonic() - began < 10


def first_ctrl_c(process: subprocess.Popen[str], client: Client) -> None:
    """Press Ctrl-C, and wait until the server has heard it: two signals at once would be one.

    MLX's CPU backend runs a shell by `system` where a kernel's first step comes, and a process
    hears no Ctrl-C within that; so it is pressed again where nothing comes of it.
    """
    while listens(client):
        process.send_signal(signal.SIGINT)
        end = time.monotonic() + 5
        while listens(client) and time.monotonic() < end:
            time.sleep(0.005)


def listens(client: Client) -> bool:
    try:
        client.get("/health")
    except (OSError, HTTPException):
        return False
    return True


def end_of_turn(client: Client) -> dict[str, int]:
    """A bias against the tokens that end a turn."""
    names = ("<|im_end|>", "<|endoftext|>")
    ids = [client.ok("/tokenize", {"prompt": name})["tokens"] for name in names]
    return {str(one): -100 for found in ids for one in found}


def test_a_port_that_is_taken_is_an_error_at_once() -> None:
    with program("demo", "--port", "0") as process:
        port = str(address(process).port)
        done = subprocess.run([*PROGRAM, "demo", "--port", port], capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert f"can't serve on 127.0.0.1 port {port}" in done.stderr and "--port" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["no/such-directory/at/all"], 1, "such-directory"),
        (["demo", "--host", "0.0.0.0", "--port", "0"], 1, "a key is needed"),
        (["demo", "--api-key-file", "missing"], 1, "can't be read"),
        (["demo", "--port", "70000"], 2, "port"),
        (["demo", "--parallel", "0"], 2, "parallel"),
        (["demo", "--parallel", "1025"], 2, "parallel"),
        (["demo", "--queue", "1000001"], 2, "queue"),
        (["demo", "--host", "no such host", "--port", "0"], 1, "no such host"),
        (["demo", "--kv-bits", "3"], 1, "kv-bits"),
        (["demo", "--draft", "0.6x"], 1, "0.6x"),
    ],
)
def test_what_can_not_be_served_is_said_in_words(
    arguments: list[str], code: int, words: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [*PROGRAM, *arguments], capture_output=True, text=True, cwd=tmp_path, timeout=60
    )
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert words in done.stderr and "Traceback" not in done.stderr


def test_the_key_comes_from_a_file_or_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("secret-one\n")
    with program("demo", "--port", "0", "--api-key-file", str(file)) as process:
        client = address(process)
        assert client.get("/v1/models").status == 401
        assert client.get("/v1/models", authorization="Bearer secret-one").status == 200
    with program("demo", "--port", "0", QWEN3_MLX_API_KEY="secret-two") as process:
        client = address(process)
        assert client.get("/v1/models", x_api_key="secret-two").status == 200
        assert client.get("/v1/models", x_api_key="secret-one").status == 401
        url = f"http://127.0.0.1:{client.port}/health"
        with urllib.request.urlopen(url) as response:
            assert json.load(response)["status"] == "ok"


def test_the_log_says_where_an_error_comes_from_and_not_what_it_says() -> None:
    def record(error: BaseException) -> logging.LogRecord:
        try:
            raise error
        except BaseException as caught:
            found = (type(caught), caught, caught.__traceback__)
            return logging.LogRecord("uvicorn.error", 40, "x.py", 1, "it %s", ("failed",), found)

    one = record(KeyError("what somebody said"))
    assert serve._without_words(one)
    text = logging.Formatter().format(one)
    assert "it failed: KeyError" in text and "test_serve.py" in text and "somebody" not in text
    assert not serve._without_words(record(asyncio.CancelledError()))
