"""Calls as models write them: typed by the tool's schema, mended, or left as text."""

from pathlib import Path
from typing import Any

import pytest

from qwen3_mlx.events import Answer, Event, Thinking, ToolCall
from qwen3_mlx.text import Mode, Splitter, Tokenizer, parse_tool_call

SCHEMA: dict[str, Any] = {
    "type": "object",
    "$defs": {
        "size": {"type": "integer"},
        "loop": {"$ref": "#/$defs/loop"},
        "deep": {"$ref": "#/$defs/size"},
    },
    "properties": {
        "content": {"type": "string"},
        "path": {"type": "string"},
        "city": {"type": "string"},
        "state": {"type": "string"},
        "n": {"type": "integer"},
        "x": {"type": "number"},
        "recursive": {"type": "boolean"},
        "list": {"type": "array"},
        "object": {"type": "object"},
        "maybe": {"type": ["string", "null"]},
        "nullable": {"type": "integer", "nullable": True},
        "either": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
        "shape": {"oneOf": [{"type": "object"}, {"type": "string"}]},
        "both": {"allOf": [{"type": ["string", "integer"]}, {"type": "integer"}]},
        "colour": {"enum": ["red", "1"]},
        "level": {"enum": [1, 2, None]},
        "const": {"const": True},
        "ref": {"$ref": "#/$defs/deep"},
        "loop": {"$ref": "#/$defs/loop"},
        "nowhere": {"$ref": "#/$defs/none"},
        "hand": {"type": "int"},
        "any": {},
    },
}
TOOLS = [
    {"type": "function", "function": {"name": "f", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "g", "parameters": {"type": "object"}}},
]
BIG = 2**53 + 1

TYPED: list[tuple[str, str, Any]] = [
    ("content", '{"a": 1}', '{"a": 1}'),
    ("content", "[1]", "[1]"),
    ("content", "90210", "90210"),
    ("content", "1.10", "1.10"),
    ("content", "true", "true"),
    ("content", "null", "null"),
    ("content", " padded ", " padded "),
    ("content", "\\d+ \\n", "\\d+ \\n"),
    ("n", "7", 7),
    ("n", " 7 ", 7),
    ("n", "-7", -7),
    ("n", "7.0", 7),
    ("n", str(BIG), BIG),
    ("n", "7.5", "7.5"),
    ("n", "seven", "seven"),
    ("n", "9" * 5000, "9" * 5000),
    ("x", "1.5", 1.5),
    ("x", "3", 3),
    ("x", "-1e3", -1000.0),
    ("x", "1e999", "1e999"),
    ("x", "NaN", "NaN"),
    ("recursive", "True", True),
    ("recursive", "false", False),
    ("recursive", "yes", "yes"),
    ("list", "[1, 2]", [1, 2]),
    ("list", "['a', True]", ["a", True]),
    ("list", "{}", "{}"),
    ("object", '{"a": null}', {"a": None}),
    ("object", "{'a': None}", {"a": None}),
    ("object", "__import__('os')", "__import__('os')"),
    ("maybe", "null", None),
    ("maybe", "None", None),
    ("maybe", "5", "5"),
    ("nullable", "null", None),
    ("nullable", "5", 5),
    ("either", "5", 5),
    ("either", "007", "007"),
    ("either", "1.10", "1.10"),
    ("either", "five", "five"),
    ("shape", '{"a": 1}', {"a": 1}),
    ("shape", "round", "round"),
    ("both", "5", 5),
    ("colour", "1", "1"),
    ("level", "1", 1),
    ("level", "null", None),
    ("const", "True", True),
    ("ref", "5", 5),
    ("loop", "5", 5),
    ("nowhere", "5", 5),
    ("hand", "5", 5),
    ("any", "5", 5),
    ("any", "True", True),
    ("any", "True story", "True story"),
    ("undeclared", '{"a": 1}', {"a": 1}),
]


@pytest.mark.parametrize(("name", "text", "value"), TYPED)
def test_arguments_have_the_type_of_the_schema(name: str, text: str, value: Any) -> None:
    call = parse_tool_call(
        f"<function=f>\n<parameter={name}>\n{text}\n</parameter>\n</function>", TOOLS
    )
    assert call == ToolCall("f", {name: value})
    assert type(call.arguments[name]) is type(value)


F, G = ToolCall("f", {"n": 1}), ToolCall("g", {})
HERMES = '{"name": "f", "arguments": {"n": 1}}'
CODER = "<function=f>\n<parameter=n>\n1\n</parameter>\n</function>"
CUT = '{"name": "f", "arguments": {"city": "Dal'
EXAMPLE = f"doc:\n<tool_call>\n{HERMES}\n</tool_call>\nend"


def wrapped(body: str) -> str:
    return f"<tool_call>\n{body}\n</tool_call>"


def f(**arguments: Any) -> ToolCall:
    return ToolCall("f", arguments)


def coder(*pairs: tuple[str, str]) -> str:
    body = "".join(f"<parameter={k}>\n{v}\n</parameter>\n" for k, v in pairs)
    return wrapped(f"<function=f>\n{body}</function>")


MENDED: list[tuple[str, list[Event]]] = [
    # the Coder's
    (
        wrapped("<function=f><parameter=city>Dallas<parameter=state>TX</parameter></function>"),
        [f(city="Dallas", state="TX")],
    ),
    (wrapped('<function="f"><parameter="n">1</parameter></function>'), [F]),
    (wrapped("<function = f >\n< parameter = n >1</ parameter ></ function >"), [F]),
    (wrapped('<function name="f"><parameter name="n">1</parameter></function>'), [F]),
    (wrapped("<function=f><parameter=n>1</parameter></parameter></function>"), [F]),
    (
        wrapped("<function=f>\r\n<parameter=city>\r\nx\r\n</parameter>\r\n</function>"),
        [f(city="x")],
    ),
    (wrapped("<function=f><parameter=n>1</function>"), [F]),
    (wrapped("<function=f><parameter=n>1</parameter>"), [F]),
    (wrapped("<function=f><parameter=n>1"), [F]),
    (wrapped("<function=f><parameter=n>1</parameter1></function>"), [F]),
    (wrapped("<function=f><parameter=n>1</parameters></function>"), [F]),
    (wrapped("<function=f><parameter=n>1</parameter=n></function>"), [F]),
    (wrapped("<function=f><parameter=n>1</parameter\n</function>"), [F]),
    (wrapped("<function=f><parameter=n>1</n></function>"), [F]),
    (wrapped("<function=f><parameter=my key>1</parameter></function>"), [f(**{"my key": 1})]),
    (wrapped('<function=f>{"n": 1}</function>'), [F]),
    (wrapped(CODER + "\n" + "<function=g>\n</function>"), [F, G]),
    (CODER, [F]),
    ("Let me see.\n\n" + CODER, [Answer("Let me see."), F]),
    ("Let me see." + CODER + "\n</tool_call>", [Answer("Let me see."), F]),
    (CODER + "\n" + CODER, [F, F]),
    ("<" + CODER, [Answer("<"), F]),
    ("1 << 2 <fun <" + CODER, [Answer("1 << 2 <fun <"), F]),
    (CODER.replace("</parameter>", ""), [F]),
    (CODER.removesuffix("</function>"), [F]),
    (f"<tool_call>\n{CODER}", [F]),
    (f"<tool_call>\n{CODER}\n<tool_call>\n{CODER}\n</tool_call>", [F, F]),
    (f"<tool_call>\n{CODER}\n</tool_call>\n</tool_call>\n", [F]),
    (
        coder(("content", "a </function>\n</tool_call> b"), ("n", "1")),
        [f(content="a </function>\n</tool_call> b", n=1)],
    ),
    (coder(("content", EXAMPLE)), [f(content=EXAMPLE)]),
    (
        coder(("content", "Use <tool_call> tags"), ("n", "1")),
        [f(content="Use <tool_call> tags", n=1)],
    ),
    (
        coder(("content", "x <parameter=path> y"), ("path", "p")),
        [f(content="x <parameter=path> y", path="p")],
    ),
    (coder(("content", "x </parameter> y")), [f(content="x </parameter> y")]),
    (
        wrapped("<function=f><parameter=content>a") + "\n" + wrapped(CODER),
        [f(content="a"), F],
    ),
    # Hermes'
    (wrapped('{"name": "f", "parameters": {"n": 1}}'), [F]),
    (wrapped('{"name": "f", "arguments": {"n": 1}'), [F]),
    (wrapped(HERMES + "}"), [F]),
    (wrapped('{"name": "f", "arguments": {"city": "a\n\tb"}}'), [f(city="a\n\tb")]),
    (wrapped('{"name": "f", "arguments": {"city": "\\d\\u12"}}'), [f(city="\\d\\u12")]),
    (wrapped('{"name": "f", "arguments": {"n": 1,},}'), [F]),
    (wrapped(f"{HERMES}\n{HERMES}"), [F, F]),
    (wrapped(f"[{HERMES}, {HERMES}]"), [F, F]),
    (wrapped(f'{{"tool_calls": [{HERMES}]}}'), [F]),
    (wrapped('{"function": {"name": "f", "arguments": {"n": 1}}}'), [F]),
    (wrapped('{"type": "function", "function": {"name": "f", "arguments": "{\\"n\\": 1}"}}'), [F]),
    (wrapped(f"```json\n{HERMES}\n```"), [F]),
    (wrapped('{"name": "g", "arguments": ""}'), [G]),
    (wrapped("{'name': 'f', 'arguments': {'n': 1}}"), [F]),
    (wrapped('{"name": "f", "arguments": {"city": "</tool_call>"}}'), [f(city="</tool_call>")]),
    (wrapped('{"name": "f", "arguments": {"city": "<tool_call>x"}}'), [f(city="<tool_call>x")]),
    (f"<tool_call>\n{HERMES}", [F]),
    (f"<tool_call>\n{HERMES}\n<tool_call>\n{HERMES}\n</tool_call>", [F, F]),
    (f"<tool_call>\n{HERMES}\n</tool_call>\n</tool_call>Done.", [F, Answer("Done.")]),
    (wrapped(f'{{"name": "f", "arguments": {{"n": {BIG}}}}}'), [f(n=BIG)]),
    # what stands behind a call that was cut off is read anew, and none of it is lost
    (wrapped(CUT) + "\n" + wrapped(HERMES), [Answer(wrapped(CUT)), F]),
    (wrapped(CUT) + "!" + wrapped(HERMES), [Answer(wrapped(CUT) + "!"), F]),
    (wrapped("<function=f><parameter=content>a") + "Done.", [f(content="a"), Answer("Done.")]),
    (wrapped("<function=f><parameter=content>a") + "\n" + wrapped(HERMES), [f(content="a"), F]),
]

# Unclear, or no call at all: shown as it stands.
TEXT = [
    wrapped('{"name": "f"'),
    wrapped('{"name": "f", "arguments": {"n": 1'),
    wrapped(CUT),
    wrapped(CUT) + "!",
    wrapped(CUT) + "Well, no call. And so on.",
    f"{wrapped(CUT)}</tool_call>!",
    wrapped('{"name": "f", "n": 1}'),
    wrapped('{"name": "f", "parameters": {"type": "object", "properties": {"n": {}}}}'),
    wrapped('{"name": "f", "arguments": {"n": 1]}}'),
    wrapped("<function=f>"),
    wrapped("<function=f> n is 1 </function>"),
    wrapped("<function=f><parameter=n>1</parameter> and so on</function>"),
    wrapped("<function=f><parameter=n>1</parameter><parameter=n>2</parameter></function>"),
    CODER.replace("=f", "=unknown"),
    f"Write `{CODER}` here.",
    f"So:\n```xml\n{CODER}\n```\nDone.",
    f'"{CODER}"',
    "a <function",
    "a <function=f> b",
    "<function=ff>",
]


@pytest.fixture(scope="module")
def tokenizer(qwen3_files: Path) -> Tokenizer:
    return Tokenizer.from_dir(qwen3_files)


def said(tokenizer: Tokenizer, text: str, tools: Any = TOOLS, truncated: bool = False) -> Any:
    """The events of a turn, token by token, with neighbouring texts joined."""
    return said_in(tokenizer, tokenizer.encode(text), tools, truncated)


def said_in(tokenizer: Tokenizer, ids: list[int], tools: Any, truncated: bool = False) -> Any:
    splitter = Splitter(tokenizer, Mode(False, None, False), tools)
    events = [e for token in ids for e in splitter.push([token])]
    merged: list[Event] = []
    for event in [*events, *splitter.flush(truncated)]:
        last = merged[-1] if merged else None
        if isinstance(event, Answer | Thinking) and type(last) is type(event):
            event = type(event)(merged.pop().text + event.text)
        merged.append(event)
    return merged


@pytest.mark.parametrize(("text", "events"), MENDED)
def test_damage_with_one_reading_is_mended(
    tokenizer: Tokenizer, text: str, events: list[Event]
) -> None:
    assert said(tokenizer, text) == events
    assert said(tokenizer, text + "<|im_end|>") == events


@pytest.mark.parametrize("text", TEXT)
def test_what_is_unclear_stays_text(tokenizer: Tokenizer, text: str) -> None:
    assert said(tokenizer, text) == [Answer(text)]


BARE = [
    *((text, events) for text, events in MENDED if "tool_call>" not in text),
    *((text, [Answer(text)]) for text in TEXT if "tool_call>" not in text),
    (f"```\n{CODER}\n``` {CODER}", [Answer(f"```\n{CODER}\n``` "), F]),
    (f"``` a ``` ```\n{CODER}", [Answer(f"``` a ``` ```\n{CODER}")]),
    (f"````\n{CODER}", [Answer(f"````\n{CODER}")]),
    (f"``{CODER}", [Answer(f"``{CODER}")]),
    (f"'' {CODER}", [Answer("'' "), F]),
]


@pytest.mark.parametrize(("text", "events"), BARE)
def test_a_call_without_its_marker_is_found_letter_by_letter(
    tokenizer: Tokenizer, text: str, events: list[Event]
) -> None:
    letters = [token for letter in text for token in tokenizer.encode(letter)]
    assert said_in(tokenizer, letters, TOOLS) == said(tokenizer, text) == events


@pytest.mark.parametrize(
    ("body", "call"), [("<function=g>\n</function>", G), (CODER, F), (HERMES, F)]
)
def test_a_call_comes_at_its_closing_marker(tokenizer: Tokenizer, body: str, call: Event) -> None:
    splitter = Splitter(tokenizer, Mode(False, None, False), TOOLS)
    assert splitter.push(tokenizer.encode(wrapped(body))) == [call]


@pytest.mark.parametrize("closer", ["</function>", "</  function  >"])
def test_a_call_without_its_marker_comes_at_the_last_letter_of_its_end(
    tokenizer: Tokenizer, closer: str
) -> None:
    splitter = Splitter(tokenizer, Mode(False, None, False), TOOLS)
    text = CODER.replace("</function>", closer)
    shown = [splitter.push(tokenizer.encode(letter)) for letter in text]
    assert shown == [[]] * (len(text) - 1) + [[F]]


def test_what_may_become_a_call_is_held_back_for_200_characters(tokenizer: Tokenizer) -> None:
    splitter = Splitter(tokenizer, Mode(False, None, False), TOOLS)
    letters = [tokenizer.encode(letter) for letter in "<function=" + "a" * 200]
    shown = [splitter.push(ids) for ids in letters]
    assert shown[:199] == [[]] * 199
    assert shown[199:201] == [[Answer("<function=" + "a" * 190)], [Answer("a")]]


@pytest.mark.parametrize("tag", ["</tool_call>", "<tool_call>"])
def test_a_value_may_hold_31_markers(tokenizer: Tokenizer, tag: str) -> None:
    """At the 32nd the call is taken for damaged: a model may have forgotten to close a string."""
    for count, is_call in ((31, True), (32, False)):
        text = wrapped(HERMES.replace("1", f'"{tag * count}"'))
        assert (said(tokenizer, text) == [f(n=tag * count)]) is is_call
    assert said(tokenizer, coder(("content", tag * 31))) == [f(content=tag * 31)]


def test_without_tools_on_offer_nothing_is_a_call(tokenizer: Tokenizer) -> None:
    for text in (wrapped(HERMES), wrapped(CODER), CODER, "a <tool_call> b", "a</tool_call>b"):
        assert said(tokenizer, text, tools=[]) == [Answer(text)]
    splitter = Splitter(tokenizer, Mode(False, None, False), [])
    ids = tokenizer.encode("<tool_call> is a tag")
    assert [splitter.push([token]) for token in ids][:2] == [
        [Answer("<tool_call>")],
        [Answer(" is")],
    ]


@pytest.mark.parametrize("tools", [None, []])
def test_where_no_call_can_begin_without_a_marker_nothing_is_held_back(
    tokenizer: Tokenizer, tools: Any
) -> None:
    splitter = Splitter(tokenizer, Mode(False, None, False), tools)
    for letter in "a <function=f>":
        assert splitter.push(tokenizer.encode(letter)) == [Answer(letter)]


def test_a_truncated_turn_is_not_repaired(tokenizer: Tokenizer) -> None:
    for text in (f"<tool_call>\n{HERMES}", f"<tool_call>\n{CODER}", "<tool_call>\n<function=f"):
        assert said(tokenizer, text, truncated=True) == [Answer(text)]
    cut = wrapped(HERMES) + "\n<tool_call>\n{"
    assert said(tokenizer, cut, truncated=True) == [F, Answer("<tool_call>\n{")]


def test_calls_have_ids_of_their_own(tokenizer: Tokenizer) -> None:
    one, other = said(tokenizer, wrapped(HERMES) * 2)
    assert one == other
    assert one.id.startswith("call_")
    assert one.id != other.id
    assert ToolCall("f").id == ""


def test_markers_behind_an_answer(tokenizer: Tokenizer) -> None:
    text = "The tag </think> closes it; <think> opens it. Done."
    for before, thought in (("", []), ("<think>\nSo.\n</think>\n\n", [Thinking("So.")])):
        assert said(tokenizer, before + text) == [*thought, Answer(text)]
    late = "<think>\nSo.\n</think>\n\nHi."  # not asked for, and split all the same
    assert said(tokenizer, late) == [Thinking("So."), Answer("Hi.")]


def test_special_tokens_said_by_a_model(tokenizer: Tokenizer) -> None:
    assert said(tokenizer, "a<|im_start|>b<|vision_start|>c") == [Answer("abc")]
    letters = tokenizer.encode_letters("a <|im_start|> b")
    splitter = Splitter(tokenizer, Mode(False, None, False))
    assert splitter.push(letters) == [Answer("a <|im_start|> b")]
