"""Texts of calls, damaged on purpose or at random: what deltas must agree with the whole about."""

from __future__ import annotations

import random

from tests.text.call_cases import CODER_DAMAGE, HERMES_DAMAGE, HOSTILE, PLAIN, a_call, wrap


def arguments(text: str) -> str:
    """A Hermes call of f with these arguments, as they are written."""
    return wrap(f'{{"name": "f", "arguments": {text}}}')


def parameters(*values: tuple[str, str], end: str = "\n</parameter>") -> str:
    """A Coder call of f with these parameters, each with this end."""
    body = "\n".join(f"<parameter={key}>\n{value}{end}" for key, value in values)
    return wrap(f"<function=f>\n{body}\n</function>")


REPAIRED = {
    "a key twice": arguments('{"text": "x", "text": "y"}'),
    "a key twice, other between": arguments('{"text": "x", "count": 1, "text": "y", "flag": true}'),
    "a key twice inside": arguments('{"options": {"x": 1, "x": 2}, "text": "a"}'),
    "a key without quotes": arguments('{1: "x"}'),
    "the second key without quotes": arguments('{"text": "x", 1: "y"}'),
    "Python's words": arguments('{"text": "x", "flag": True, "items": (1, 2)}'),
    "Python's joined strings": arguments('{"text": "x" "y", "flag": True}'),
    "Python's escapes": arguments(r'{"text": "x\/y", "code": "\x41", "flag": True}'),
    "an escape that JSON lacks": arguments(r'{"text": "C:\path", "code": "a"}'),
    "a line break": arguments('{"text": "x\ny", "count": 1}'),
    "trailing commas": arguments('{"items": [1, 2,], "text": "x",}'),
    "escapes": arguments(r'{"text": "\u00e9\ud83d\ude00\/\n", "count": -0, "ratio": 1e5}'),
    "blanks": arguments('{ "text" :  "x" ,\n "count":1 , "items" : [ ] , "options" : { } }'),
    "text as arguments": arguments(r'"{\"text\": \"x\"}"'),
    "a tag in the name": wrap('{"name": "ns.get<tool_call>-it", "arguments": {"text": "x"}}'),
    "a tag inside": arguments('{"text": "a </tool_call> b", "text": "c"}'),
    "null": arguments("null"),
    "two in one": wrap('{"name": "f", "arguments": {"text": "x"}}\n' * 2),
    "more behind": wrap('{"name": "f", "arguments": {"text": "x"}, "id": "1"}'),
    "no end of a parameter": parameters(("text", "hello"), ("count", "5"), end=""),
    "one end missing": parameters(("text", "hello\n<parameter=count>\n5"), ("flag", "true")),
    "an unknown tag inside": parameters(("text", "a <parameter=zz> b"), ("count", "5")),
    "an end by its name": parameters(("text", "hello"), ("count", "5"), end="</text>"),
    "two ends": parameters(("text", "hello"), ("count", "5"), end="\n</parameter></parameter>"),
    "line breaks": parameters(("text", "\n\nx\n\n"), ("zz", "\n\ny\n\n"), ("code", "\n")),
    "another tag": parameters(("text", "a</b> <params> </function> c"), ("count", "5")),
    "no ends of a line": parameters(("text", ""), ("code", ""), end="</parameter>"),
}
"""Calls that can be read in one way only, and that a reader from the front could misread."""

NONE = {
    "NaN": arguments('{"count": NaN}'),
    "infinity": arguments('{"ratio": 1e400}'),
    "NaN behind": arguments('{"text": "x", "count": NaN}'),
    "no comma": arguments('{"text": "x" "count": 1}'),
    "brackets": arguments('{"items": [1}, "text": "a"}'),
    "a comment": arguments('{"text": "x" /* c */}'),
    "half a pair": arguments(r'{"text": "\ud83d x"}'),
    "two names": wrap('{"name": "f", "arguments": {"text": "x"}, "name": "run_code"}'),
    "two arguments": wrap('{"name": "f", "arguments": {"text": "x"}, "arguments": {"count": 1}}'),
    "both": wrap('{"name": "f", "parameters": {"text": "x"}, "arguments": {"count": 1}}'),
    "a parameter twice": parameters(("text", "hello"), ("text", "bye")),
}
"""Texts that are no call, although they begin as one."""
UNANNOUNCED = ("NaN", "infinity")
"""Those of them where nothing is sent: their first argument is already none."""


def anything(rng: random.Random) -> str:
    """A turn with calls in any form, with a few characters or tags of it changed."""
    forms = list((HERMES_DAMAGE | CODER_DAMAGE).values())
    texts = rng.choice([PLAIN, HOSTILE])
    bodies = [rng.choice(forms)(a_call(rng, texts)) for _ in range(rng.choice([1, 1, 2]))]
    text = "\nthen ".join(body if rng.random() < 0.2 else wrap(body) for body in bodies)
    pieces = ['"', ",", ":", "{", "}", "[", "]", "\\", "\n", "NaN", "1", "True", " ", "'"]
    pieces += ["<parameter=text>", "</parameter>", "</function>", "<tool_call>", "</text>", "</"]
    for _ in range(rng.choice([0, 1, 1, 2, 4])):
        at, kind = rng.randrange(len(text) + 1), rng.randrange(3)
        cut = rng.randrange(1, 12) if kind == 1 else 0
        again = text[at : at + rng.randrange(40)] if kind == 2 else ""
        text = text[:at] + (again or ("" if cut else rng.choice(pieces))) + text[at + cut :]
    return text
