"""Generated turns with tool calls: calls × forms × damage × chunkings, right by construction.

    uv run python -m tests.text.call_cases 100000 [SEED]

Each case is written from the calls that must come out of it, so the expectation owes nothing to
the parser. Prints how many cases of each damage were right.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from qwen3_mlx.events import Answer, Event, Thinking, ToolCall
from qwen3_mlx.text import Mode, Splitter, Tokenizer
from tests.tiny_tokenizer import tiny_backend

TYPES: dict[str, Any] = {
    "text": {"type": "string"},
    "code": {"type": ["string", "null"]},
    "count": {"type": "integer"},
    "ratio": {"$ref": "#/$defs/ratio"},
    "flag": {"type": "boolean"},
    "items": {"type": "array", "items": {}},
    "options": {"anyOf": [{"type": "object"}, {"type": "null"}]},
    "kind": {"enum": ["a", "b", "1"]},
}
SCHEMA = {"type": "object", "properties": TYPES, "$defs": {"ratio": {"type": "number"}}}
NAMES = ("f", "搜索", "run_code", "ns.get-it")
TOOLS = [{"type": "function", "function": {"name": n, "parameters": SCHEMA}} for n in NAMES]

PLAIN = ("", "x", "Dallas", "5", "007", "1.10", "true", '{"a": 1}', "[1]", "None", "two\nlines")
PLAIN += (
    "a\tb",
    "你好 👩‍👩‍👧‍👦",
    "5 < 6 > 4 & 'q' \"d\"",
    "\\d+\\.",
    "<b>bold</b>",
    "```py\nx\n```",
    "{a}",
)
HOSTILE = (
    "the </tool_call> tag",
    "a <tool_call> b",
    "</parameter> inside",
    "ends </function> so",
    "x <parameter=other> y",
    "<tool_call>\n{}\n</tool_call>",
    "</function>\n</tool_call>\nnot yet",
    "<think>hm</think>",
)
PROSE = ("", "", "Let me see.", "Look:\n\n", "\n\n1 < 2", "`x`\n", "I call it.\n")


@dataclass(frozen=True)
class TurnCase:
    """A turn's text, the calls in it, and the text around them."""

    damage: str
    text: str
    calls: tuple[ToolCall, ...]
    said: str


def value(rng: random.Random, name: str, texts: Sequence[str]) -> Any:
    match name:
        case "text":
            return rng.choice(texts)
        case "code":
            return rng.choice([*texts, None])
        case "count":
            return rng.choice([0, 7, -7, 2**53 + 1, 10**30])
        case "ratio":
            return rng.choice([0.5, -1500.0, 3, 1e-9])
        case "flag":
            return rng.random() < 0.5
        case "items":
            return rng.choice([[], [1, "a", None], [{"b": [True]}], ["</tool_call>"]])
        case "options":
            return rng.choice([{}, {"a": {"b": "c\n"}}, {"x": [1, {"y": None}]}, None])
        case _:
            return rng.choice(["a", "b", "1"])


def a_call(rng: random.Random, texts: Sequence[str], least: int = 0) -> ToolCall:
    names = rng.sample(list(TYPES), rng.randrange(least, 5))
    arguments = {name: value(rng, name, texts) for name in names}
    if texts is not HOSTILE:  # neither holds a marker
        arguments = {k: [] if v == ["</tool_call>"] else v for k, v in arguments.items()}
    if arguments.get("code") in ("None", "null"):  # a text or nothing? the schema allows both
        arguments["code"] = "x"
    return ToolCall(rng.choice(NAMES), arguments)


def hermes(call: ToolCall, **changes: Any) -> str:
    return json.dumps(
        {"name": call.name, "arguments": call.arguments} | changes, ensure_ascii=False
    )


def xml_value(v: Any) -> str:
    return v if isinstance(v, str) else json.dumps(v, ensure_ascii=False)


def coder(
    call: ToolCall,
    opened: str = "<parameter={}>\n",
    closed: str = "\n</parameter>\n",
    shown: Callable[[Any], str] = xml_value,
) -> str:
    body = "".join(opened.format(k) + shown(v) + closed for k, v in call.arguments.items())
    return f"<function={call.name}>\n{body}</function>"


def python_value(v: Any) -> str:
    return v if isinstance(v, str) else str(v)


def last_unclosed(call: ToolCall) -> str:
    head, _, tail = coder(call).rpartition("\n</parameter>")
    return head + tail


HERMES_DAMAGE: dict[str, Callable[[ToolCall], str]] = {
    "hermes": hermes,
    "hermes indented": lambda c: json.dumps({"arguments": c.arguments, "name": c.name}, indent=1),
    "missing brace": lambda c: hermes(c)[:-1],
    "brace too many": lambda c: hermes(c) + "}",
    "raw newlines and tabs": lambda c: hermes(c).replace("\\n", "\n").replace("\\t", "\t"),
    "escapes that JSON lacks": lambda c: hermes(c).replace("\\\\", "\\"),
    "trailing commas": lambda c: hermes(c)[:-1] + ",}",
    "parameters": lambda c: hermes(c).replace('"arguments"', '"parameters"', 1),
    "arguments as text": lambda c: hermes(c, arguments=json.dumps(c.arguments)),
    "a list": lambda c: f"[{hermes(c)}]",
    "function inside": lambda c: f'{{"type": "function", "function": {hermes(c)}}}',
    "fenced": lambda c: f"```json\n{hermes(c)}\n```",
    "Python": lambda c: repr({"name": c.name, "arguments": c.arguments}),
}
CODER_DAMAGE: dict[str, Callable[[ToolCall], str]] = {
    "coder": coder,
    "Python's words": lambda c: coder(c, shown=python_value),
    "last parameter unclosed": last_unclosed,
    "no parameter closed": lambda c: coder(c, closed="\n"),
    "function unclosed": lambda c: coder(c).removesuffix("</function>"),
    "numbered ends": lambda c: coder(c, closed="\n</parameter1>\n"),
    "named ends": lambda c: coder(c, closed="\n</parameter=x>\n"),
    "double ends": lambda c: coder(c, closed="\n</parameter>\n</parameter>\n"),
    "quoted names": lambda c: coder(c, opened='<parameter="{}">\n').replace(
        f"<function={c.name}>", f'<function="{c.name}">'
    ),
    "blanks in tags": lambda c: coder(
        c, opened="< parameter = {} >\n", closed="\n</ parameter >\n"
    ),
    "name attribute": lambda c: coder(c, opened='<parameter name="{}">\n'),
    "CRLF": lambda c: coder(c, opened="<parameter={}>\r\n", closed="\r\n</parameter>\r\n"),
    "JSON inside": lambda c: f"<function={c.name}>\n{json.dumps(c.arguments)}\n</function>",
}
BARE = ("coder", "Python's words", "last parameter unclosed", "numbered ends", "JSON inside")
WHOLE = ("hermes", "hermes indented", "coder")


def wrap(body: str) -> str:
    return f"<tool_call>\n{body}\n</tool_call>"


def a_case(rng: random.Random) -> TurnCase:
    """One turn of one to three calls, all damaged the same way."""
    forms = HERMES_DAMAGE | CODER_DAMAGE
    damage = rng.choice(list(forms))
    hostile = damage in WHOLE and rng.random() < 0.5
    # An escape or a bracket of a text must not hide the damage, nor must an empty argument.
    texts = HOSTILE if hostile else PLAIN
    if damage == "escapes that JSON lacks":
        texts = ("\\d+\\.", "x", "\\w")
    calls = tuple(a_call(rng, texts, least=1) for _ in range(rng.randrange(1, 4)))
    if damage in ("Python's words", "CRLF"):
        calls = tuple(plainest(call) for call in calls)
    bodies = [forms[damage](call) for call in calls]
    before, after = rng.choice(PROSE), rng.choice(("", "", "\nDone.", "</tool_call>"))
    how = rng.randrange(4)
    if how == 1 and damage in WHOLE and not hostile:
        damage, middle = f"{damage}, several in one wrapper", wrap("\n".join(bodies))
    elif how == 2 and damage in (*WHOLE, "parameters", "function inside") and not hostile:
        damage, after = f"{damage}, no </tool_call>", ""
        middle = "\n".join(f"<tool_call>\n{body}" for body in bodies)
    elif how == 3 and damage in BARE and not hostile:
        damage, middle = f"{damage}, no <tool_call>", "\n".join(bodies)
        before = before.rstrip("`")
    else:
        middle = "\n".join(map(wrap, bodies))
    said = before + ("" if after == "</tool_call>" else after)
    return TurnCase(damage, before + middle + after, calls, said)


def plainest(call: ToolCall) -> ToolCall:
    """The call without what Python's words or Windows' line ends would make another value of."""
    arguments = {
        name: v.replace("\n", " ") if isinstance(v, str) else v
        for name, v in call.arguments.items()
    }
    return ToolCall(call.name, arguments)


def events_of(tokenizer: Tokenizer, chunks: Iterable[Sequence[int]]) -> list[Event]:
    splitter = Splitter(tokenizer, Mode(False, None, False), TOOLS)
    events = [event for chunk in chunks for event in splitter.push(chunk)]
    merged: list[Event] = []
    for event in [*events, *splitter.flush()]:
        last = merged[-1] if merged else None
        if isinstance(event, Answer | Thinking) and type(last) is type(event):
            event = type(event)(merged.pop().text + event.text)
        merged.append(event)
    return merged


def chunked(rng: random.Random, ids: list[int]) -> list[list[int]]:
    cuts = sorted(rng.choices(range(len(ids) + 1), k=rng.randrange(8)))
    return [ids[a:b] for a, b in zip([0, *cuts], [*cuts, len(ids)], strict=True)]


def wrong(tokenizer: Tokenizer, case: TurnCase, rng: random.Random) -> str:
    """Why the case is not as it must be; empty if it is."""
    ids = tokenizer.encode(case.text)
    events = events_of(tokenizer, [ids])
    for chunks in ([[token] for token in ids], chunked(rng, ids)):
        if events_of(tokenizer, chunks) != events:
            return "another chunking gives other events"
    calls = tuple(event for event in events if isinstance(event, ToolCall))
    if repr(calls) != repr(
        tuple(ToolCall(c.name, c.arguments, d.id) for c, d in zip(case.calls, calls, strict=False))
    ) or len(calls) != len(case.calls):
        return f"calls {calls}"
    said = "".join(event.text for event in events if isinstance(event, Answer))
    return "" if said.replace("\n", "") == case.said.replace("\n", "") else f"text {said!r}"


def check(count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Right cases by damage, and the first wrong ones in words."""
    backend = tiny_backend()
    tokenizer = Tokenizer(backend, [backend.token_to_id("<|endoftext|>")])
    rng = random.Random(seed)
    right: Counter[str] = Counter()
    failures: list[str] = []
    for _ in range(count):
        case = a_case(rng)
        if why := wrong(tokenizer, case, rng):
            failures.append(f"{case.damage}\n{case.text}\nexpected {case.calls}\n{why}")
        else:
            right[case.damage] += 1
    return right, failures


def main(count: str = "100000", seed: str = "1") -> None:
    right, failures = check(int(count), int(seed))
    for damage, number in sorted(right.items()):
        print(f"{number:8,}  {damage}")
    print(f"{sum(right.values()):8,}  right of {int(count):,}")
    if failures:
        sys.exit("\n\n".join(failures[:5]))


if __name__ == "__main__":
    main(*sys.argv[1:])
