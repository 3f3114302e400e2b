"""Turns made to take long: the time a token takes does not grow with the turn."""

import time

import pytest

from qwen3_mlx.text import Mode, Splitter, Tokenizer
from tests.tiny_tokenizer import tiny_backend

N = 1000
TOOLS = [{"name": "f", "parameters": {"properties": {"a": {"type": "string"}, "b": {}}}}]
HOSTILE = [
    '<tool_call>{"name": "f", "arguments": {"a": "' + "</tool_call> " * N,
    "<tool_call><function=f><parameter=a>" * N,
    "<tool_call><function=f><parameter=a>x</tool_call>" * N,
    "<function=f><parameter=a>" + "</function> <b>x</b>" * N,
    "<function=f>" * N,
    "<function" * N + "< " * N,
    "<tool_call>" + "[" * N * 4 + "</tool_call>",
    '<tool_call>{"name":"f","arguments":{"a":"' + '\\"' * N * 4 + "</tool_call>",
    "<tool_call><function=f>" + "<parameter=a><parameter=b>" * N + "</function></tool_call>",
    "<tool_call><function=f>" + "".join(f"<parameter={n}>" for n in range(N)) + "</function>",
    "<tool_call><function=f><parameter=a>" + ("</parameter>" + " " * 20) * N + "x</function>",
    "<tool_call><function=f><parameter=a>" + ("<" + " " * 50) * N + "</parameter></function>",
    "<tool_call>" + '{"name":"f","arguments":{}}' * N + "</tool_call>",
    "<tool_call>" + '{"a":' * N * 5 + "</tool_call>",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("deltas", [False, True])
def test_hostile_turns(text: str, deltas: bool) -> None:
    tokenizer = Tokenizer(tiny_backend())
    ids = tokenizer.encode(text)
    splitter = Splitter(tokenizer, Mode(False, None, False), TOOLS, deltas)
    began = time.process_time()
    for token in ids:
        splitter.push([token])
    splitter.flush()
    assert time.process_time() - began < 10
