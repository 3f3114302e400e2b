"""Tool calls as they grow: name first, then the text of the arguments."""

import json
import random

import pytest

from qwen3_mlx.events import Answer, Event, ToolCall, ToolCallDelta
from qwen3_mlx.text import Mode, Splitter, Tokenizer
from tests.text.call_cases import TOOLS, WHOLE, a_case, chunked, coder, hermes, wrap
from tests.text.call_texts import NONE, REPAIRED, UNANNOUNCED, anything
from tests.tiny_tokenizer import tiny_backend


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(tiny_backend())


def deltas_of(tokenizer: Tokenizer, text: str, one_by_one: bool = True) -> list[Event]:
    splitter = Splitter(tokenizer, Mode(False, None, False), TOOLS, deltas=True)
    ids = tokenizer.encode(text)
    chunks = [[token] for token in ids] if one_by_one else [ids]
    return [event for chunk in chunks for event in splitter.push(chunk)] + splitter.flush()


def grown(events: list[Event], index: int) -> tuple[str, str, set[str]]:
    """Name, arguments and ids of one call's deltas, joined."""
    own = [e for e in events if isinstance(e, ToolCallDelta) and e.index == index]
    names, texts = "".join(e.name for e in own), "".join(e.arguments for e in own)
    assert own[0].name
    return names, texts, {e.id for e in own}


CALL = ToolCall(
    "f", {"text": 'He said: "Look,\n <b>5 < 6</b>" 👩‍👩‍👧‍👦 \\d', "count": 7, "items": [1, {}]}
)


@pytest.mark.parametrize("write", [hermes, coder])
def test_a_call_grows(tokenizer: Tokenizer, write: object) -> None:
    assert callable(write)
    events = deltas_of(tokenizer, wrap(write(CALL)))
    assert grown(events, 0)[:2] == ("f", json.dumps(CALL.arguments, ensure_ascii=False))
    assert [e for e in events if not isinstance(e, ToolCallDelta)] == [CALL]
    assert events[0] == ToolCallDelta(0, "f")
    assert len(events) > 30  # piece by piece
    assert all(len(e.arguments) < 20 for e in events if isinstance(e, ToolCallDelta))
    assert grown(events, 0)[2] == {e.id for e in events if isinstance(e, ToolCall)}


def test_deltas_of_generated_calls(tokenizer: Tokenizer) -> None:
    rng = random.Random(8)
    for _ in range(400):
        case = a_case(rng)
        events = deltas_of(tokenizer, case.text)
        assert [e for e in events if isinstance(e, ToolCall)] == list(case.calls)
        at_once = deltas_of(tokenizer, case.text, one_by_one=False)
        calls_only = [[e for e in of if not isinstance(e, Answer)] for of in (events, at_once)]
        assert calls_only[0] == calls_only[1]
        for index, call in enumerate(case.calls):
            whole = json.dumps(call.arguments, ensure_ascii=False)
            name, text, ids = grown(events, index)
            assert name == call.name
            assert len(ids) == 1
            if any(case.damage.startswith(whole) for whole in WHOLE):
                assert text == whole
        agree(events)


def agree(events: list[Event]) -> None:
    """The deltas of every call parse to its arguments; those of no call are no JSON."""
    calls = {e.id: e for e in events if isinstance(e, ToolCall)}
    names: dict[str, str] = {}
    texts: dict[str, str] = {}
    places: dict[int, str] = {}
    for delta in (e for e in events if isinstance(e, ToolCallDelta)):
        assert places.setdefault(delta.index, delta.id) == delta.id, "one number for two calls"
        names[delta.id] = names.get(delta.id, "") + delta.name
        texts[delta.id] = texts.get(delta.id, "") + delta.arguments
    assert calls.keys() <= texts.keys()
    for id, text in texts.items():
        if call := calls.get(id):
            assert (names[id], json.loads(text)) == (call.name, call.arguments)
        else:
            assert text and not json_of(text)


def whole_of(tokenizer: Tokenizer, text: str) -> list[Event]:
    splitter = Splitter(tokenizer, Mode(False, None, False), TOOLS)
    return splitter.push(tokenizer.encode(text)) + splitter.flush()


def without_deltas(events: list[Event]) -> tuple[list[Event], str]:
    """The calls, and the text around them joined."""
    calls: list[Event] = [e for e in events if isinstance(e, ToolCall)]
    return calls, "".join(e.text for e in events if isinstance(e, Answer))


@pytest.mark.parametrize("name", [*REPAIRED, *NONE])
def test_deltas_agree_with_the_whole_call(tokenizer: Tokenizer, name: str) -> None:
    text = (REPAIRED | NONE)[name]
    events, whole = deltas_of(tokenizer, text), whole_of(tokenizer, text)
    assert without_deltas(events) == without_deltas(whole)
    assert any(isinstance(event, ToolCall) for event in events) is (name in REPAIRED)
    agree(events)
    announced = any(isinstance(event, ToolCallDelta) for event in events)
    assert announced is (name not in UNANNOUNCED)


def test_deltas_agree_with_the_whole_of_any_text(tokenizer: Tokenizer) -> None:
    rng = random.Random(11)
    for _ in range(500):
        text = anything(rng)
        splitter = Splitter(tokenizer, Mode(False, None, False), TOOLS, deltas=True)
        chunks = chunked(rng, tokenizer.encode(text))
        events = [event for chunk in chunks for event in splitter.push(chunk)] + splitter.flush()
        assert without_deltas(events) == without_deltas(whole_of(tokenizer, text)), text
        agree(events)


def test_a_call_behind_one_that_is_none_has_a_number_of_its_own(tokenizer: Tokenizer) -> None:
    events = deltas_of(tokenizer, NONE["no comma"] + "\n" + wrap(hermes(CALL)))
    assert [e.index for e in events if isinstance(e, ToolCallDelta) and e.name] == [0, 1]
    assert grown(events, 1)[1] == json.dumps(CALL.arguments, ensure_ascii=False)
    agree(events)


def json_of(text: str) -> bool:
    """Whether `text` is whole JSON: then somebody would take it for the arguments."""
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def test_deltas_come_only_when_asked_for(tokenizer: Tokenizer) -> None:
    splitter = Splitter(tokenizer, Mode(False, None, False), TOOLS)
    assert splitter.push(tokenizer.encode(wrap(hermes(CALL)))) == [CALL]


def test_what_turns_out_to_be_no_call(tokenizer: Tokenizer) -> None:
    text = '<tool_call>\n{"name": "f", "arguments": {"text": "a", oops}}\n</tool_call>'
    events = deltas_of(tokenizer, text)
    assert events[-1] == Answer(text)
    assert not any(isinstance(event, ToolCall) for event in events)
    assert not json_of(grown(events, 0)[1])
    unknown = deltas_of(tokenizer, '<tool_call>\n{"name": "nobody", "arguments": {"a"')
    assert not any(isinstance(event, ToolCallDelta) for event in unknown)
