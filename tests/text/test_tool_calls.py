import json
import random
import time
from typing import Any

import pytest

from qwen3_mlx.events import ToolCall
from qwen3_mlx.text import parse_tool_call

HERMES = [
    ('{"name": "f", "arguments": {"a": 1}}', ToolCall("f", {"a": 1})),
    ('\n{"name": "f", "arguments": {}}\n', ToolCall("f", {})),
    (
        '{"arguments": {"x": [1, {"é": null}]}, "name": "搜索"}',
        ToolCall("搜索", {"x": [1, {"é": None}]}),
    ),
    ('{"name": "f", "arguments": "{\\"a\\": \\"b\\"}"}', ToolCall("f", {"a": "b"})),
    ('{"name": "f"}', ToolCall("f", {})),
    ('{"name": "f", "arguments": null}', ToolCall("f", {})),
    (
        '{"name": "f", "arguments": {"s": "</tool_call>\\n"}}',
        ToolCall("f", {"s": "</tool_call>\n"}),
    ),
]


def xml(*parameters: tuple[str, str], name: str = "f") -> str:
    body = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in parameters)
    return f"\n<function={name}>\n{body}</function>\n"


CODER = [
    (xml(("a", "text"), ("b", "")), {"a": "text", "b": ""}),
    (xml(), {}),
    (
        xml(("n", "7"), ("x", "-1.5e3"), ("t", "true"), ("f", "false")),
        {"n": 7, "x": -1500.0, "t": True, "f": False},
    ),
    (xml(("o", '{"a": [1]}'), ("l", "[1, 2]")), {"o": {"a": [1]}, "l": [1, 2]}),
    (
        xml(("q", '"quoted"'), ("z", "007"), ("u", "null"), ("b", "{a}")),
        {"q": '"quoted"', "z": "007", "u": "null", "b": "{a}"},
    ),
    (xml(("big", "1e999"), ("nan", "NaN")), {"big": "1e999", "nan": "NaN"}),
    (xml(("code", "\ndef f():\n    return 1\n")), {"code": "\ndef f():\n    return 1\n"}),
    (
        xml(("doc", "ends in </parameter> or </function>, so")),
        {"doc": "ends in </parameter> or </function>, so"},
    ),
    (
        "<function=f><parameter=a>1</parameter><parameter=b>x y</parameter></function>",
        {"a": 1, "b": "x y"},
    ),
]

MALFORMED = [
    "",
    "f(1)",
    "[]",
    '"f"',
    '{"name": "f", "arguments": {"a": 1}} and more',
    '{"arguments": {}}',
    '{"name": "", "arguments": {}}',
    '{"name": 7, "arguments": {}}',
    '{"name": "f", "arguments": [1]}',
    '{"name": "f", "arguments": []}',
    '{"name": "f", "arguments": false}',
    '{"name": "f", "arguments": "not json"}',
    '{"name": "f", "arguments": "[1]"}',
    '{"name": "f", "arguments": {"a": NaN}}',
    '{"name": "f", "arguments": {"a": 1e999}}',
    '{"name": "f", "arguments": {"a": "\\ud83d"}}',
    '{"name": "f", "arguments": ' + "[" * 100_000,
    '{"name": "f", "arguments": ' + '{"a":' * 50_000 + "1" + "}" * 50_001,
    "<function=f>",
    "<function=f> stray text </function>",
    "<function=><parameter=a>1</parameter></function>",
    "<function=f><parameter=a>1</parameter></function> more",
]


@pytest.mark.parametrize(("text", "call"), HERMES)
def test_hermes(text: str, call: ToolCall) -> None:
    assert parse_tool_call(text) == call


@pytest.mark.parametrize(("text", "arguments"), CODER)
def test_coder(text: str, arguments: dict[str, Any]) -> None:
    call = parse_tool_call(text)
    assert call == ToolCall("f", arguments)
    assert [type(value) for value in call.arguments.values()] == [
        type(v) for v in arguments.values()
    ]


@pytest.mark.parametrize("text", MALFORMED, ids=range(len(MALFORMED)))
def test_malformed(text: str) -> None:
    with pytest.raises(ValueError):
        parse_tool_call(text)


def test_any_json_arguments_survive() -> None:
    rng = random.Random(3)

    def value(depth: int) -> Any:
        scalars = [0, -7, 2.5, True, False, None, "", "a\nb", "</tool_call>", "😀", '"', "\\"]
        if depth == 0 or rng.random() < 0.5:
            return rng.choice(scalars)
        if rng.random() < 0.5:
            return [value(depth - 1) for _ in range(rng.randrange(3))]
        return {rng.choice("abcé"): value(depth - 1) for _ in range(rng.randrange(3))}

    for _ in range(200):
        call = {"name": "f", "arguments": {"x": value(3), "y": value(3)}}
        text = json.dumps(call, ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, 1]))
        assert parse_tool_call(text) == ToolCall("f", call["arguments"])


def test_hostile_text_takes_no_time() -> None:
    began = time.process_time()
    for text in (
        "<function=f>" + "<parameter=a>\n" * 20_000 + "</function>",
        "<function=f>" + "<parameter=a></parameter>x" * 10_000 + "</function>",
        "<function=f>" + "\n" * 50_000 + "x</function>",
    ):
        with pytest.raises(ValueError):
            parse_tool_call(text)
    assert time.process_time() - began < 2
