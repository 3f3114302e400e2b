"""Whole turns whose answers follow a schema, a pattern or a call."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import jsonschema
import pytest

from qwen3_mlx.chat.turns import Turn, new_scheduler, run_all
from qwen3_mlx.errors import OptionError
from qwen3_mlx.events import Answer, Reply, Thinking, ToolCall
from qwen3_mlx.model import Qwen3
from qwen3_mlx.text.grammar import Match
from tests import scripted, tiny
from tests.text import schemas

HOT: dict[str, Any] = {"temperature": 1.5, "top_k": 0, "top_p": 1.0, "max_tokens": 500}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "likes": {"type": "array", "items": {"enum": ["tea", "旅", "🎉"]}, "maxItems": 2},
    },
    "required": ["name", "age", "likes"],
    "additionalProperties": False,
}
TOOLS: list[dict[str, Any]] = [
    {"name": "now"},
    {"name": "wetter für", "parameters": PERSON},
    {
        "name": "many",
        "parameters": {
            "type": "object",
            "properties": {
                "text": {"type": "string", "maxLength": 6},
                "kind": {"enum": ["one two", "<b>"]},
                "count": {"$ref": "#/$defs/count"},
                "on": {"type": "boolean"},
                "where": {"type": "array", "items": {"type": "integer", "maximum": 3, "minimum": 0},
                          "maxItems": 3},
            },
            "required": ["kind", "on", "count"],
            "additionalProperties": False,
            "$defs": {"count": {"type": "integer", "minimum": 0, "maximum": 99}},
            "not": {"required": ["nothing"]},  # can't be honoured, and is passed over
        },
    },
]  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Qwen3:
    return Qwen3(tiny.runtime(8, max_position_embeddings=8192))


@pytest.fixture(scope="module")
def opened() -> Qwen3:
    """A model whose prompts end in an open thought."""
    return Qwen3(tiny.runtime(8, opened=True, max_position_embeddings=8192))


def fits(answer: str, schema: Any = PERSON) -> None:
    jsonschema.validate(json.loads(answer), schema)


def whole(reply: Reply) -> str:
    assert reply.finish_reason == "stop"
    fits(reply.answer)
    return reply.answer


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "thinking", [{"thinking": False}, {"thinking_budget": 1}, {"thinking_budget": 7}]
)
def test_answers_follow_the_schema_whatever_is_drawn(
    model: Qwen3, opened: Qwen3, thinking: dict[str, Any], seed: int
) -> None:
    for one in (model,) if "thinking" in thinking else (model, opened):
        options = HOT | thinking | {"schema": PERSON, "seed": seed}
        reply = one.generate("Who?", **options)
        whole(reply)
        events = list(one.stream("Who?", **options))
        text = "".join(e.text for e in events if isinstance(e, Answer))
        thought = "".join(e.text for e in events if isinstance(e, Thinking))
        assert (text, thought) == (reply.answer, reply.thinking)


def test_random_schemas_and_random_networks() -> None:
    rng = random.Random(11)
    models = [Qwen3(tiny.runtime(seed, max_position_embeddings=8192)) for seed in range(3)]
    for n in range(30):
        schema = schemas.schema(rng)
        try:
            reply = models[n % 3].generate("x", **HOT, schema=schema, seed=n, thinking_budget=n % 4)
        except OptionError as refused:
            assert "can't be honoured" in str(refused)
            continue
        if reply.finish_reason == "stop":
            fits(reply.answer, schema)


SAID = "<think>\nHm, {}.\n</think>\n\n"


@pytest.mark.parametrize("budget", [None, 6])
@pytest.mark.parametrize(
    "wanted", ['{"name": "Al", "age": 7, "likes": []}', "Sure! Here it is: {}"]
)
def test_the_schema_begins_with_the_first_character_of_the_answer(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3, wanted: str, budget: int | None
) -> None:
    scripted.say(monkeypatch, model, SAID + wanted)
    reply = model.generate(
        "Who?", temperature=0.0, max_tokens=300, schema=PERSON, thinking_budget=budget
    )
    answer = whole(reply)
    assert reply.thinking.startswith("Hm") and reply.stats.thinking_cut == (
        "budget" if budget else ""
    )
    if budget is None:
        assert reply.thinking == "Hm, {}."
        assert answer == wanted or "Sure" in wanted
    assert reply.stats.answer_tokens >= 8


def test_an_answer_now_arms_the_schema(monkeypatch: pytest.MonkeyPatch, model: Qwen3) -> None:
    scripted.say(monkeypatch, model, "<think>\n" + "word " * 50)
    turn = model.stream("Who?", temperature=0.0, max_tokens=400, schema=PERSON)
    events = []
    for event in turn:
        if isinstance(event, Thinking) and len(events) == 5:
            turn.interrupt("answer")
        events.append(event)
    reply = Reply.from_events(events)
    whole(reply)
    assert reply.stats.thinking_cut == "user"


def test_a_thought_cannot_end_the_turn_nor_call(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3
) -> None:
    for end in ("<|im_end|>", "<|endoftext|>", '<tool_call>\n{"name": "now"}\n</tool_call>'):
        scripted.say(monkeypatch, model, f"<think>\nHm {end}")
        reply = model.generate(
            "Who?", temperature=0.0, max_tokens=300, schema=PERSON, thinking_budget=40, tools=TOOLS
        )
        assert reply.finish_reason == "stop" and "Hm" in reply.thinking
        assert reply.tool_calls or whole(reply)


def test_max_tokens_cuts_with_length_and_a_whole_answer_is_a_stop(model: Qwen3) -> None:
    options = HOT | {"schema": PERSON, "seed": 3, "thinking": False}
    reply = model.generate("Who?", **options)
    count = reply.stats.answer_tokens
    exactly = model.generate("Who?", **options | {"max_tokens": count})
    assert (exactly.answer, exactly.finish_reason) == (reply.answer, "stop")
    for most in range(1, count, 5):
        short = model.generate("Who?", **options | {"max_tokens": most})
        assert short.finish_reason == "length" and short.stats.answer_tokens == most
        assert reply.answer.startswith(short.answer.rstrip("\ufffd"))


@pytest.mark.parametrize("logprobs", [None, 0])
def test_forced_tokens_change_nothing_but_the_passes(model: Qwen3, logprobs: int | None) -> None:
    """With log probabilities every token is drawn; each has one then."""
    options = HOT | {"schema": PERSON, "seed": 5, "thinking": False}
    plain = model.generate("Who?", **options)
    drawn = model.generate("Who?", **options, logprobs=logprobs)
    assert plain.stats.answer_tokens == len("".join(plain.answer)) or plain.answer
    assert len(drawn.logprobs) == (0 if logprobs is None else drawn.stats.answer_tokens)
    whole(drawn)


def test_neighbours_and_the_way_of_asking_change_no_token(model: Qwen3) -> None:
    """Alone, streamed, in a session, among many, in one scheduler: one answer a seed."""
    options = HOT | {"schema": PERSON, "seed": 9, "thinking_budget": 5}
    alone = [model.generate(prompt, **options) for prompt in ("Who?", "You?", "Me?")]
    many = model.generate_many(["Who?", "You?", "Me?"], **options)
    assert [r.answer for r in alone] == [r.answer for r in many if isinstance(r, Reply)]
    assert len({whole(reply) for reply in alone}) > 1
    chat = model.session(**options)
    assert Reply.from_events(chat.send("Who?")).answer == alone[0].answer
    assert (
        Reply.from_events(chat.retry(schema=None, thinking=False, thinking_budget=None)).answer
        != alone[0].answer
    )
    free = model.runtime
    turns = [
        Turn(free, request(model, text, given))
        for text, given in (("Who?", options), ("x", HOT | {"seed": 1, "max_tokens": 30}))
    ]
    found = dict(run_all(new_scheduler(free), turns))
    assert isinstance(found[0], Reply) and found[0].answer == alone[0].answer


def request(model: Qwen3, text: str, given: dict[str, Any]) -> Any:
    from qwen3_mlx.chat.request import prepare
    from qwen3_mlx.options import GenerationOptions

    return prepare(model.runtime, [{"role": "user", "content": text}], GenerationOptions(**given))


def test_n_answers_each_follow_the_schema(model: Qwen3) -> None:
    reply = model.generate("Who?", n=3, **HOT, schema=PERSON, seed=2, thinking_budget=3)
    answers = [whole(one) for one in (reply, *reply.alternatives)]
    assert len(set(answers)) == 3


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("coder", [False, True])
@pytest.mark.parametrize("choice", ["required", {"name": "many"}, {"name": "wetter für"}])
def test_calls_are_made_as_the_template_writes_them(
    model: Qwen3, monkeypatch: pytest.MonkeyPatch, coder: bool, choice: Any, seed: int
) -> None:
    if coder:
        monkeypatch.setattr(type(model.runtime), "family", "coder", raising=False)
        object.__setattr__(model.runtime, "family", "coder")
    try:
        reply = model.generate(
            "Do.",
            **HOT,
            tools=TOOLS,
            tool_choice=choice,
            seed=seed,
            thinking=None if coder else False,
        )
    finally:
        object.__setattr__(model.runtime, "family", "hybrid")
    assert reply.tool_calls and (reply.answer == "" or reply.finish_reason == "length")
    if reply.finish_reason == "stop" and isinstance(choice, dict):
        assert len(reply.tool_calls) == 1
    check(reply.tool_calls, choice)


def check(calls: Sequence[ToolCall], choice: Any) -> None:
    for call in calls:
        assert isinstance(choice, str) or call.name == choice["name"]
        tool = next(one for one in TOOLS if one["name"] == call.name)
        schema = {
            k: v for k, v in tool.get("parameters", {"maxProperties": 0}).items() if k != "not"
        }
        jsonschema.validate(call.arguments, schema)


def test_a_schema_beside_tools_leaves_the_choice(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3
) -> None:
    options: dict[str, Any] = {"temperature": 0.0, "max_tokens": 300, "thinking": False}
    for said in ('<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>', '{"name": "Al'):
        scripted.say(monkeypatch, model, said)
        reply = model.generate("Who?", schema=PERSON, tools=TOOLS, **options)
        assert bool(reply.tool_calls) is ("tool_call" in said)
        assert reply.tool_calls or whole(reply).startswith('{"name": "Al')


def test_a_message_goes_on_to_its_schema(monkeypatch: pytest.MonkeyPatch, model: Qwen3) -> None:
    user = {"role": "user", "content": "Who?"}
    begun = {"role": "assistant", "content": '{"name": "Bo'}
    options = HOT | {"schema": PERSON, "seed": 1, "continue_last": True}
    reply = model.generate([user, begun], **options)
    fits(begun["content"] + reply.answer)
    begun["content"] = "Well, "
    with pytest.raises(OptionError, match="beginning"):
        model.generate([user, begun], **options)


def test_stop_sequences_bias_and_patterns(model: Qwen3) -> None:
    options = HOT | {"thinking": False, "seed": 4}
    reply = model.generate("Who?", regex="(ab|cd){3}-[0-9]{2}", **options)
    assert reply.finish_reason == "stop" and len(reply.answer) == 9
    reply = model.generate("Who?", schema=PERSON, stop='"age', **options)
    assert reply.stopped_by == '"age' and reply.answer.startswith('{"name": "')
    digit = model.tokenizer.encode("7")[0]
    reply = model.generate("Who?", regex="[0-9]{5}", logit_bias={digit: 100}, **options)
    assert reply.answer == "77777"


def test_masks_leave_the_log_probabilities_alone(model: Qwen3) -> None:
    free = model.generate("Who?", **HOT | {"max_tokens": 1}, thinking=False, logprobs=3)
    held = model.generate("Who?", **HOT, schema=PERSON, thinking=False, logprobs=3)
    assert [top.token for top in free.logprobs[0].top] == [
        top.token for top in held.logprobs[0].top
    ]
    assert held.logprobs[0].bytes.startswith(b"{")


class Person:
    """What a pydantic model class looks like from outside."""

    @classmethod
    def model_json_schema(cls) -> dict[str, Any]:
        return PERSON


@pytest.mark.parametrize("form", [PERSON, json.dumps(PERSON), Person])
def test_a_schema_may_be_a_dict_its_text_or_a_model(model: Qwen3, form: Any) -> None:
    chat = model.session(schema=form, **HOT)
    assert chat.options.schema == PERSON
    turn = chat.send("Who?", thinking=False, seed=1)
    whole(Reply.from_events(turn))


def test_pydantic_models_are_schemas(model: Qwen3) -> None:
    pydantic = pytest.importorskip("pydantic")
    made = pydantic.create_model("Made", word=(str, pydantic.Field(max_length=4)), n=(bool, ...))
    reply = model.generate("Who?", schema=made, thinking=False, seed=1, **HOT)
    assert made.model_validate_json(reply.answer)


@pytest.mark.parametrize(
    "options",
    [
        *({"schema": 3}, {"schema": "{"}, {"schema": "[1]"}, {"schema": ["a"]}, {"schema": False}),
        *({"schema": {"a": {1, 2}}}, {"schema": int}, {"schema": {"not": {}}}, {"regex": 3}),
        *({"schema": {}, "regex": "a"}, {"schema": {}, "min_tokens": 3}, {"regex": "("}),
        *({"tool_choice": "required"}, {"tool_choice": {"name": "f"}}, {"tool_choice": "f"}),
        *({"tool_choice": 3}, {"tool_choice": {}}, {"tool_choice": {"name": "f"}, "tools": TOOLS}),
    ],
    ids=str,
)
def test_impossible_forms_are_refused_before_anything_is_computed(
    model: Qwen3, options: dict[str, Any]
) -> None:
    with pytest.raises(OptionError) as refused:
        model.generate("Who?", **options)
    assert refused.value.got is not None or refused.value.hint
    chat = model.session()
    with pytest.raises(OptionError):
        chat.send("Who?", **options)
    assert chat.messages == []


@pytest.mark.parametrize("part", ["take", "mask"])
def test_a_grammar_that_fails_ends_its_own_turn_alone(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3, part: str
) -> None:
    works, calls = getattr(Match, part), list[int]()

    def fail(self: Match, *token: int) -> Any:
        calls.append(0)
        if len(calls) < 4:
            return works(self, *token)
        raise OptionError("schema can't be honoured", got="too complex")

    monkeypatch.setattr(Match, part, fail)
    turns = [
        Turn(model.runtime, request(model, "a", HOT | {"schema": PERSON, "thinking": False})),
        Turn(model.runtime, request(model, "b", HOT | {"max_tokens": 20, "seed": 1})),
    ]
    found = dict(run_all(new_scheduler(model.runtime), turns))
    assert isinstance(found[0], OptionError) and isinstance(found[1], Reply)
    assert found[1].answer == model.generate("b", **HOT | {"max_tokens": 20, "seed": 1}).answer
