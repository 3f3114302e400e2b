"""Every shape of message that OpenAI's API knows, on every template of the family."""

import copy
import enum
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qwen3_mlx.errors import MessageError, OptionError, TemplateError
from qwen3_mlx.events import ToolCall
from qwen3_mlx.text import ChatTemplate, Message, normalise, normalise_tools

GOLDEN = Path(__file__).parents[1] / "golden"
TEMPLATES = ["qwen3", "refreshed_2504", "thinking_2507", "instruct_2507", "coder"]
PARTS = [{"type": "text", "text": "What is"}, {"type": "text", "text": "2+2?"}]
USER: dict[str, Any] = {"role": "user", "content": "hi"}


def calling(*calls: Any, **fields: Any) -> list[dict[str, Any]]:
    return [USER, {"role": "assistant", **fields, "tool_calls": list(calls)}]


def function(arguments: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "arguments": arguments, **fields}}


# (messages in a shape of OpenAI's, the same said plainly)
SHAPES: list[tuple[list[Any], list[dict[str, Any]]]] = [
    ([{"role": "user", "content": PARTS}], [{"role": "user", "content": "What is\n2+2?"}]),
    ([{"role": "user", "content": PARTS[:1]}], [{"role": "user", "content": "What is"}]),
    ([{"role": "user", "content": ["a", "b"]}], [{"role": "user", "content": "a\nb"}]),
    (
        [{"role": "user", "content": [{"type": "input_text", "text": "a"}]}],
        [{"role": "user", "content": "a"}],
    ),
    ([{"role": "user", "content": []}], [{"role": "user", "content": ""}]),
    ([{"role": "user", "content": None}], [{"role": "user", "content": ""}]),
    ([{"role": "user"}], [{"role": "user", "content": ""}]),
    (
        [{"role": "system", "content": PARTS}, USER],
        [{"role": "system", "content": "What is\n2+2?"}, USER],
    ),
    (
        [{"role": "developer", "content": "Be brief."}, USER],
        [{"role": "system", "content": "Be brief."}, USER],
    ),
    (
        [USER, {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}],
        [USER, {"role": "assistant", "content": "no"}],
    ),
    (
        [USER, {"role": "assistant", "content": None, "refusal": "no"}],
        [USER, {"role": "assistant", "content": "no", "refusal": "no"}],
    ),
    (
        [USER, {"role": "assistant", "content": "", "refusal": "no"}],
        [USER, {"role": "assistant", "content": "no", "refusal": "no"}],
    ),
    (
        [USER, {"role": "assistant", "content": "yes", "refusal": None}],
        [USER, {"role": "assistant", "content": "yes"}],
    ),
    (calling(function('{"a": 1}')), calling(function({"a": 1}), content="")),
    (calling(function(""), content=None), calling(function({}), content="")),
    (calling(function(None)), calling(function({}), content="")),
    (calling({"type": "function", "function": {"name": "f"}}), calling(function({}), content="")),
    (calling({"name": "f", "arguments": " "}), calling(function({}), content="")),
    (calling(ToolCall("f", {"a": 1})), calling(function({"a": 1}), content="")),
    (
        [USER, {"role": "assistant", "function_call": {"name": "f", "arguments": '{"a": 1}'}}],
        calling(function({"a": 1}), content=""),
    ),
    (
        [*calling(function({})), {"role": "function", "name": "f", "content": "7"}],
        [*calling(function({})), {"role": "tool", "name": "f", "content": "7"}],
    ),
]
RESULTS: list[tuple[Any, str]] = [
    ({"result": 42, "é": [None, True]}, '{"result": 42, "é": [null, true]}'),
    (42, "42"),
    (1.5, "1.5"),
    (True, "true"),
    ([1, "a"], '[1, "a"]'),
    ([], "[]"),
    ([{"type": "cat"}], '[{"type": "cat"}]'),
    (PARTS, "What is\n2+2?"),
    (None, ""),
    ("text", "text"),
]
CALLED = calling(function({}))
SHAPES += [
    ([*CALLED, {"role": "tool", "content": result}], [*CALLED, {"role": "tool", "content": text}])
    for result, text in RESULTS
]


def template(name: str, qwen3_files: Path) -> ChatTemplate:
    if name == "qwen3":
        return ChatTemplate.from_dir(qwen3_files)
    source = (GOLDEN / f"{name}_template.jinja").read_text("utf-8")
    return ChatTemplate(source, {"eos_token": "<|im_end|>"})


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_shape_renders_on_every_template(name: str, qwen3_files: Path) -> None:
    one = template(name, qwen3_files)
    for shaped, plain in SHAPES:
        before = copy.deepcopy(shaped)
        assert one.render(shaped) == one.render(plain), shaped
        assert shaped == before
    for spelling in ("reasoning", "thinking"):
        talk = [USER, {"role": "assistant", "content": "a", spelling: "r"}]
        plain = [USER, {"role": "assistant", "content": "a", "reasoning_content": "r"}]
        assert one.render(talk) == one.render(plain)


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_is_said_is_in_the_prompt(name: str, qwen3_files: Path) -> None:
    one = template(name, qwen3_files)
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "SYSTEM"}]},
        {"role": "user", "content": [{"type": "text", "text": "QUESTION"}]},
        {"role": "assistant", "tool_calls": [function('{"ARGUMENT": "VALUE"}', name="NAME")]},
        {"role": "tool", "content": {"RESULT": 42}},
    ]
    prompt = one.render(messages)
    for word in ("SYSTEM", "QUESTION", "NAME", "ARGUMENT", "VALUE", "RESULT", "42"):
        assert word in prompt, word


def test_normalised_messages_are_normal() -> None:
    for shaped, _ in SHAPES:
        once = normalise(shaped)
        assert normalise(once) == once
        assert all(isinstance(message["content"], str) for message in once)
        assert json.loads(json.dumps(once)) == once


def test_argument_text_stays_as_it_was_where_a_template_reads_it(qwen3_files: Path) -> None:
    talk = calling(function('{"city":  "Z\\u00fcrich"}'))
    assert '"arguments": {"city":  "Z\\u00fcrich"}' in template("qwen3", qwen3_files).render(talk)
    assert "<parameter=city>\nZürich\n" in template("coder", qwen3_files).render(talk)


def test_roles_may_be_enum_members() -> None:
    class Role(str, enum.Enum):  # noqa: UP042  (its str() is not its value)
        USER = "user"

    assert normalise([{"role": Role.USER, "content": "a"}]) == [{"role": "user", "content": "a"}]


def test_the_types_of_messages() -> None:
    talk: list[Message] = [
        {"role": "developer", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]},
        {"role": "tool", "content": {"a": 1}},
    ]
    assert [message["role"] for message in normalise(talk)] == [
        *("system", "user", "assistant", "tool")
    ]


@pytest.mark.parametrize("around", [lambda v: [v], lambda v: (v,), lambda v: {"a": v}])
def test_values_may_be_nested_in_128_levels_and_no_more(around: Callable[[Any], Any]) -> None:
    value: Any = "x"
    for _ in range(128):
        value = around(value)
    message = {"role": "user", "content": "a", "extra": value}
    assert json.dumps(normalise([message])) == json.dumps([message])
    with pytest.raises(MessageError, match="nested too deeply, by more than 128 levels"):
        normalise([message | {"extra": around(value)}])


IMAGE = {"type": "image_url", "image_url": {"url": "data:"}}
deep: Any = "x"
for _ in range(10_000):
    deep = [deep]
REFUSED: list[tuple[Any, str]] = [
    (None, r"^messages: got None, expected a list with at least one message"),
    ({"role": "user"}, r"messages: got .*\nhint: put it in a list"),
    ([USER, None], r"messages\[1\]: got None, expected a dict whose role is one of"),
    ([{"role": ["user"]}], r"messages\[0\]: got .* expected a dict whose role"),
    ([{"role": "user", "content": [PARTS[0], IMAGE]}], r"content\[1\]: got .*'image_url'.*hint: Q"),
    ([{"role": "tool", "content": [IMAGE]}], r"content\[0\]: got a part of type 'image_url'"),
    ([{"role": "user", "content": [{"type": "text"}]}], r"content\[0\]\.text: got NoneType"),
    ([{"role": "user", "content": [7]}], r"content\[0\]: got a part of type 'int'"),
    ([{"role": "user", "content": {"a": 1}}], r"messages\[0\]\.content: got dict .*text or a list"),
    ([{"role": "user", "content": 7}], r"messages\[0\]\.content: got int 7, expected text"),
    ([{"role": "user", "content": "a\udce9"}], r"content: got a lone surrogate at character 1"),
    ([{"role": "user", "content": "a", "x\ud83d": 1}], "got a lone surrogate"),
    (calling(function('"\ud83d"')), r"function\.arguments: got a lone surrogate"),
    (calling(function({"a": ["\ud83d"]})), r"arguments\.a\[0\]: got a lone surrogate"),
    (calling(function([1])), r"messages\[1\]\.tool_calls\[0\]\.function\.arguments: got list"),
    (calling(function(7)), r"arguments: got int 7, expected an object, or its JSON"),
    (calling({"function": {"arguments": {}}}), r"tool_calls\[0\]\.function\.name: got None"),
    (calling({"function": None}), r"tool_calls\[0\]\.function: got NoneType"),
    (calling("f"), r"tool_calls\[0\]: got str, expected a dict with name and arguments"),
    ([USER, {"role": "assistant", "tool_calls": {}}], r"tool_calls: got dict .* a list of tool"),
    ([USER, {"role": "assistant", "function_call": "f"}], r"function_call: got str"),
    ([USER, {"role": "assistant", "reasoning": 7}], r"messages\[1\]\.reasoning: got int 7"),
    ([{"role": "tool", "content": deep}], "nested too deeply"),
    (calling(function({"a": deep})), "nested too deeply"),
    ([{"role": "user", "content": "a", "name": Path("x")}], r"messages\[0\]\.name: got PosixPath"),
]


@pytest.mark.parametrize(("messages", "message"), REFUSED, ids=range(len(REFUSED)))
def test_messages_that_are_refused(messages: Any, message: str) -> None:
    with pytest.raises(MessageError, match=f"(?s){message}") as caught:
        normalise(messages)
    assert isinstance(caught.value, OptionError)
    assert isinstance(caught.value, TemplateError)
    assert len(str(caught.value)) < 400


def test_argument_text_that_a_template_cant_write(qwen3_files: Path) -> None:
    for text in ("not json", "[1]", "[" * 100_000):
        with pytest.raises(MessageError, match=r"messages\[1\]\.tool_calls\[0\]\.function\.argum"):
            template("coder", qwen3_files).render(calling(function(text)))


SCHEMA = {"type": "object", "properties": {"a": {"type": ["string", "null"]}, "b": True}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}


def test_tools() -> None:
    assert normalise_tools(None) is None
    assert normalise_tools([]) == []
    tools = [TOOL, TOOL["function"], {"name": "f"}, {"function": {"name": "f", "parameters": {}}}]
    assert normalise_tools(tools) == tools


def parameters(schema: Any) -> Any:
    return [TOOL, {"type": "function", "function": {"name": "f", "parameters": schema}}]


REFUSED_TOOLS: list[tuple[Any, str]] = [
    ("f", "^tools: got str 'f', expected a list of tools"),
    (TOOL, "^tools: got dict"),
    ([TOOL, len], r"tools\[1\]: got builtin_function_or_method"),
    ([{"type": "web_search"}], r"tools\[0\]\.name: got None, expected the tool's name"),
    ([{"function": {"name": ""}}], r"tools\[0\]\.function\.name: got ''"),
    (parameters("x"), r"tools\[1\]\.function\.parameters: got 'x', expected a JSON schema"),
    (parameters([1]), r"parameters: got \[1\], expected a JSON schema"),
    (parameters({"type": "string"}), r"parameters\.type: got 'string', expected 'object'"),
    (parameters({"properties": []}), r"parameters\.properties: got \[\]"),
    (parameters({"properties": {"a": 7}}), r"properties\.a: got 7, expected a JSON schema"),
    (parameters({"properties": {"a": {"type": 7}}}), r"properties\.a\.type: got 7"),
    (parameters({"required": "a"}), r"parameters\.required: got 'a'"),
    (parameters({"x": deep}), "nested too deeply"),
    (parameters({"x": "\ud83d"}), "lone surrogate"),
]


@pytest.mark.parametrize(("tools", "message"), REFUSED_TOOLS, ids=range(len(REFUSED_TOOLS)))
def test_tools_that_are_no_schema(tools: Any, message: str) -> None:
    with pytest.raises(MessageError, match=message):
        normalise_tools(tools)
    with pytest.raises(MessageError, match=message):
        ChatTemplate("{{ messages[0].content }}").render([USER], tools=tools)


def test_ten_thousand_tools(qwen3_files: Path) -> None:
    began = time.process_time()
    tools = [{"function": {**TOOL["function"], "name": f"f{n}"}} for n in range(10_000)]
    prompt = template("qwen3", qwen3_files).render([USER], tools=tools)
    assert prompt.count('"name": "f') == 10_000
    assert time.process_time() - began < 10
