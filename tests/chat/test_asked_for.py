"""Tools in a session, stop sequences, continuing, log probabilities, bias, several answers."""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from qwen3_mlx.errors import OptionError
from qwen3_mlx.events import Reply
from qwen3_mlx.model import Qwen3
from tests import scripted, tiny

GREEDY: dict[str, Any] = {"temperature": 0.0, "max_tokens": 60, "thinking": False}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
CALL = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'


@pytest.fixture(scope="module")
def model() -> Qwen3:
    return Qwen3(tiny.runtime(8))


@pytest.mark.parametrize("by_turn", [True, False])
def test_each_step_of_a_tool_loop_computes_its_new_part_only(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3, by_turn: bool
) -> None:
    options = {"temperature": 0.0, "max_tokens": 100}
    chat = model.session(system="Be brief.", tools=None if by_turn else TOOLS, **options)
    offered = TOOLS if by_turn else None
    scripted.say(monkeypatch, model, f"<think>\nHm.\n</think>\n\n{CALL}")
    first = Reply.from_events(chat.send("weather?", tools=offered))
    assert [call.name for call in first.tool_calls] == ["f"]
    reply = first
    for n in range(3):
        # The tests' template writes a call differently than this model said it.
        before = reply.stats.prompt_tokens + reply.stats.thinking_tokens
        result = {"role": "tool", "content": f"sunny {n}"}
        reply = Reply.from_events(chat.send(result, tools=offered))
        assert reply.stats.cached_tokens >= before
        assert reply.stats.prompt_tokens - reply.stats.cached_tokens < 80
    cold = model.generate(chat.messages[:-1], tools=TOOLS, **options)
    assert cold.stats.prompt_tokens == reply.stats.prompt_tokens
    assert chat.warm() < 80  # the next prompt offers the same tools


def test_bad_tools_are_refused(model: Qwen3) -> None:
    chat = model.session(**GREEDY)
    for tools in ("f", {"name": "f"}, [1], [{"x": 1}]):
        with pytest.raises(OptionError, match="tools"):
            chat.send("hi", tools=tools)
        with pytest.raises(OptionError, match="tools"):
            model.session(tools=tools)  # type: ignore[arg-type]
    assert chat.messages == []


SAID = "<think>\nOne END two.\n</think>\n\nThree END four. 你好 END five."


@pytest.mark.parametrize(
    ("stop", "where", "want"),
    [
        ("END", "answer", ("One END two.", "Three ", "END")),
        ("END", "thinking", ("One ", "", "END")),
        (["four", "END"], "both", ("One ", "", "END")),
        (["ND four. 你"], "answer", ("One END two.", "Three E", "ND four. 你")),
        (["好 END", "你好"], "answer", ("One END two.", "Three END four. ", "你好")),
        ("absent", "both", ("One END two.", "Three END four. 你好 END five.", None)),
        ("five. And", "both", ("One END two.", "Three END four. 你好 END five.", None)),
    ],
)
def test_stop_sequences(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3, stop: Any, where: Any, want: tuple[Any, ...]
) -> None:
    scripted.say(monkeypatch, model, SAID)
    reply = model.generate("hi", temperature=0.0, max_tokens=200, stop=stop, stop_in=where)
    assert (reply.thinking, reply.answer, reply.stopped_by) == want
    assert reply.finish_reason == "stop"


def test_what_the_budget_puts_in_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3
) -> None:
    scripted.say(monkeypatch, model, "<think>\n" + "word " * 40)
    reply = model.generate(
        "hi", temperature=0.0, max_tokens=200, thinking_budget=9, stop="limited", stop_in="both"
    )
    assert "limited time" in reply.thinking and reply.stopped_by is None


def test_min_tokens_holds_back_the_end_and_the_stop(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3
) -> None:
    scripted.say(monkeypatch, model, "a b a b a b a b a b")
    whole = model.generate("hi", **GREEDY)
    early = model.generate("hi", stop="b", **GREEDY)
    late = model.generate("hi", stop="b", min_tokens=6, **GREEDY)
    assert early.answer == "a " and len(early.answer) < len(late.answer) < len(whole.answer)
    assert late.stats.answer_tokens >= 6


def test_a_stop_leaves_the_next_turn_right(monkeypatch: pytest.MonkeyPatch, model: Qwen3) -> None:
    chat = model.session(**GREEDY)
    scripted.say(monkeypatch, model, "Three END four.")
    list(chat.send("one", stop="END"))
    assert chat.messages[-1]["content"] == "Three "
    monkeypatch.undo()
    reply = Reply.from_events(chat.send("two"))
    assert reply.answer == model.generate(chat.messages[:-1], **GREEDY).answer


LIST = {"content": "A list:\n"}
THOUGHT = {"content": "So", "reasoning_content": "Hm."}
OPEN = {"content": "", "reasoning_content": "Hm, wh"}


@pytest.mark.parametrize(
    ("thinking", "last", "inside"),
    [
        *((thinking, last, False) for thinking in (None, True, False) for last in (LIST, THOUGHT)),
        *((thinking, OPEN, True) for thinking in (None, True)),
    ],
)
def test_continuing_begins_where_the_message_ends(
    monkeypatch: pytest.MonkeyPatch,
    model: Qwen3,
    thinking: bool | None,
    last: dict[str, str],
    inside: bool,
) -> None:
    messages = [{"role": "user", "content": "Why?"}, {"role": "assistant", **last}]
    chat = model.session(temperature=0.0, max_tokens=60, thinking=thinking)
    chat.messages = [dict(message) for message in messages]
    rest = "at.\n</think>\n\nSo." if inside else "\n1. One"
    scripted.say(monkeypatch, model, rest)
    reply = Reply.from_events(chat.continue_last())
    held = model.tokenizer.decode(chat.cache.tokens).removesuffix("<|im_end|>")
    whole = model.template.render(chat.messages, thinking=thinking, add_generation_prompt=False)
    assert whole == held + "<|im_end|>\n"
    assert len(chat.messages) == 2
    if inside:
        assert (reply.thinking, reply.answer) == ("at.", "So.")
        assert chat.messages[-1]["reasoning_content"] == "Hm, what."
    else:
        assert reply.answer == "\n1. One"
        assert chat.messages[-1]["content"] == last["content"] + "\n1. One"


def test_what_cant_be_continued_is_refused(model: Qwen3) -> None:
    user = {"role": "user", "content": "hi"}
    for last in (user, {"role": "assistant", "content": ""}):
        with pytest.raises(OptionError, match="nothing to continue"):
            model.generate([user, last], continue_last=True)
    with pytest.raises(OptionError, match="continue_last=True"):
        model.generate([user, {"role": "assistant", "content": "Yes"}])


def test_logprobs_are_the_networks_own(model: Qwen3) -> None:
    options = GREEDY | {"max_tokens": 8, "logit_bias": {3: 100.0}}
    reply = model.generate("hi", logprobs=4, **options)
    assert len(reply.logprobs) == reply.stats.answer_tokens == 8
    assert {one.token for one in reply.logprobs} == {3}  # the bias decides, and isn't in them
    chat = model.session(**options)
    list(chat.send("hi"))
    ids = chat.cache.tokens
    logits = np.array(model.network(mx.array([ids]))[0]).astype(np.float64)
    want = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    for step, one in enumerate(reply.logprobs):
        row = want[len(ids) - 8 + step - 1]
        assert math.isclose(one.logprob, row[3], abs_tol=1e-4)
        best = np.argsort(-row)[:4]
        assert [top.token for top in one.top] == best.tolist()
        assert np.allclose([top.logprob for top in one.top], row[best], atol=1e-4)
    assert model.generate("hi", logprobs=0, **options).logprobs[0].top == ()
    assert model.generate("hi", **options).logprobs == ()


def test_n_answers_are_those_of_their_seeds(model: Qwen3) -> None:
    options = {"max_tokens": 12, "thinking": False, "seed": 5}
    reply = model.generate("hi", n=3, **options)
    assert len(reply.alternatives) == 2
    for i, one in enumerate((reply, *reply.alternatives)):
        assert one.answer == model.generate("hi", **options | {"seed": 5 + i}).answer
    assert reply.alternatives[0].stats.cached_tokens == reply.stats.prompt_tokens - 1


@pytest.mark.parametrize(
    "options",
    [
        *({"n": 0}, {"n": True}, {"n": 1.5}),
        *({"stop": ""}, {"stop": ["a", ""]}, {"stop": 3}, {"stop": "a", "stop_in": "all"}),
        *({"logit_bias": {10**6: 1}}, {"logit_bias": {-1: 1}}, {"logit_bias": {"x": 1}}),
        *({"logit_bias": [1]}, {"logit_bias": {1: 101}}, {"logit_bias": {1: math.nan}}),
        *({"logprobs": -1}, {"logprobs": 21}, {"logprobs": True}, {"frequency_penalty": 3}),
        *({"min_tokens": -1}, {"min_tokens": 100, "max_tokens": 50}),
    ],
)
def test_impossible_options_are_refused(model: Qwen3, options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        model.generate("hi", **options)
