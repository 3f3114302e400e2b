"""OpenAI's own library, which checks every answer against its types."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from qwen3_mlx.model import load
from tests.checkpoints import GOLDEN
from tests.clients.libraries import library
from tests.clients.model import CONTEXT
from tests.clients.served import THOUGHT, Served, call, results
from tests.serve.server import serving

pydantic = pytest.importorskip("pydantic", reason="no pydantic: uv sync --group clients")
openai = library("openai")

SUM: Any = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add two numbers.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    },
}
ASK: Any = [{"role": "user", "content": "What is 2 + 2?"}]


class Sum(pydantic.BaseModel):
    """A form for answers."""

    result: int


def strict(url: str, strict: bool = True) -> Any:
    return openai.OpenAI(
        base_url=f"{url}/v1", api_key="x", max_retries=0, _strict_response_validation=strict
    )


@pytest.fixture
def client(served: Served) -> Iterator[Any]:
    with strict(served.url) as one:
        yield one


def adds(prompt: str) -> str:
    """Calls the tool, then answers with its result."""
    found = results(prompt)
    return f"{THOUGHT}It is {found[0]}." if found else THOUGHT + call("add", a=2, b=2)


class TestChat:
    def test_whole(self, served: Served, client: Any) -> None:
        served.say(THOUGHT + "It is 4.")
        got = client.chat.completions.create(model="scripted", messages=ASK)
        message = got.choices[0].message
        assert message.content == "It is 4."
        assert message.reasoning_content.strip() == "Two and two."
        assert got.choices[0].finish_reason == "stop"
        usage = got.usage
        assert usage.prompt_tokens == served.turns[0].prompt
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
        assert 0 < usage.completion_tokens_details.reasoning_tokens < usage.completion_tokens

    def test_streamed(self, served: Served, client: Any) -> None:
        served.say(THOUGHT + "It is 4.")
        chunks = list(
            client.chat.completions.create(
                model="scripted",
                messages=ASK,
                stream=True,
                stream_options={"include_usage": True},
                extra_body={"thinking_budget": 64},
            )
        )
        deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
        assert deltas[0].role == "assistant"
        assert "".join(delta.content or "" for delta in deltas) == "It is 4."
        thought = "".join(getattr(delta, "reasoning_content", "") for delta in deltas)
        assert thought.strip() == "Two and two."
        assert [chunk.choices for chunk in chunks][-1] == []
        assert chunks[-1].usage.prompt_tokens == served.turns[0].prompt

    def test_a_round_of_tools(self, served: Served, client: Any) -> None:
        served.say(adds)
        create = client.chat.completions.create
        first = create(model="scripted", messages=ASK, tools=[SUM]).choices[0]
        assert first.finish_reason == "tool_calls"
        assert first.message.content in (None, "")
        (made,) = first.message.tool_calls
        assert made.function.name == "add"
        assert json.loads(made.function.arguments) == {"a": 2, "b": 2}
        result = {"role": "tool", "tool_call_id": made.id, "content": "4"}
        said = [*ASK, first.message.model_dump(exclude_none=True), result]
        second = create(model="scripted", messages=said, tools=[SUM]).choices[0]
        assert second.message.content == "It is 4."
        assert served.turns[1].cached >= served.turns[0].prompt

    def test_pieces_of_calls(self, served: Served, client: Any) -> None:
        served.say(call("add", a=1, b=2) + "\n" + call("add", a=3, b=4))
        with client.chat.completions.stream(model="scripted", messages=ASK, tools=[SUM]) as stream:
            kinds = [event.type for event in stream]
            final = stream.get_final_completion()
        assert "tool_calls.function.arguments.delta" in kinds
        calls = [json.loads(c.function.arguments) for c in final.choices[0].message.tool_calls]
        assert calls == [{"a": 1, "b": 2}, {"a": 3, "b": 4}]
        assert final.choices[0].finish_reason == "tool_calls"

    def test_parsed(self, served: Served, client: Any) -> None:
        served.say(THOUGHT + '{"result": 4}')
        ask = {"model": "scripted", "messages": ASK, "max_tokens": 1000}
        message = client.chat.completions.parse(**ask, response_format=Sum).choices[0].message
        assert message.parsed == Sum(result=4)
        assert message.reasoning_content.strip() == "Two and two."
        got = client.responses.parse(model="scripted", input="2 + 2?", text_format=Sum)
        assert got.output_parsed == Sum(result=4)

    def test_a_forced_call(self, served: Served, client: Any) -> None:
        served.say(call("add", a=2, b=2))
        chosen = {"type": "function", "function": {"name": "add"}}
        create = client.chat.completions.create
        got = create(model="scripted", messages=ASK, tools=[SUM], tool_choice=chosen).choices[0]
        assert [c.function.name for c in got.message.tool_calls] == ["add"]

    def test_logprobs(self, client: Any) -> None:
        got = client.chat.completions.create(
            model="scripted", messages=ASK, logprobs=True, top_logprobs=2, max_tokens=3
        )
        first = got.choices[0].logprobs.content[0]
        assert len(first.top_logprobs) == 2 and first.logprob <= 0

    def test_a_whole_number_may_have_a_point(self, client: Any) -> None:
        create = client.chat.completions.create
        got = create(model="scripted", messages=ASK, max_tokens=2.0)
        assert got.usage.completion_tokens == 2
        with pytest.raises(openai.BadRequestError, match="a whole number"):
            create(model="scripted", messages=ASK, max_tokens=2.5)

    def test_what_is_refused(self, client: Any) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="scripted", messages=ASK, n=2)
        assert caught.value.param == "n"
        assert client.chat.completions.create(model="scripted", messages=ASK).choices


class TestResponses:
    def test_whole(self, served: Served, client: Any) -> None:
        served.say(THOUGHT + "It is 4.")
        got = client.responses.create(model="scripted", input="2 + 2?", instructions="Be brief.")
        assert got.output_text == "It is 4."
        assert [item.type for item in got.output] == ["reasoning", "message"]
        assert got.usage.input_tokens == served.turns[0].prompt
        assert "Be brief." in served.prompts[0]

    def test_streamed(self, served: Served, client: Any) -> None:
        served.say(THOUGHT + "It is 4.")
        with client.responses.stream(model="scripted", input="2 + 2?") as stream:
            events = list(stream)
            final = stream.get_final_response()
        numbers = [event.sequence_number for event in events]
        assert numbers == sorted(numbers)
        assert events[0].type == "response.created"
        assert events[-1].type == "response.completed"
        assert final.output_text == "It is 4."

    def test_a_round_of_tools_by_the_last_response(self, served: Served, client: Any) -> None:
        served.say(adds)
        tool = {"type": "function", "strict": False, **SUM["function"]}
        first = client.responses.create(model="scripted", input="2 + 2?", tools=[tool])
        (made,) = [item for item in first.output if item.type == "function_call"]
        assert json.loads(made.arguments) == {"a": 2, "b": 2}
        result: Any = {"type": "function_call_output", "call_id": made.call_id, "output": "4"}
        with client.responses.stream(
            model="scripted", previous_response_id=first.id, input=[result], tools=[tool]
        ) as stream:
            list(stream)
            final = stream.get_final_response()
        assert final.output_text == "It is 4."
        assert served.turns[1].cached >= served.turns[0].prompt

    @pytest.mark.parametrize("limit", [12, 28, 300])
    def test_a_call_that_is_cut_or_none_ends_its_item(
        self, served: Served, client: Any, limit: int
    ) -> None:
        served.say(call("add", a=2, b=2).replace(', "b"', ' "b"') + "\nIt is 4.")
        tool = {"type": "function", "strict": False, **SUM["function"]}
        extra = {"extra_body": {"enable_thinking": False}, "max_output_tokens": limit}
        with client.responses.stream(
            model="scripted", input="2 + 2?", tools=[tool], **extra
        ) as stream:
            events = list(stream)
        done = [event.item for event in events if event.type == "response.output_item.done"]
        final = events[-1].response
        assert [item.id for item in done] == [item.id for item in final.output]
        assert final.output_text.startswith("<tool_call>")
        calls = [item for item in final.output if item.type == "function_call"]
        assert all(item.status == "incomplete" for item in calls)
        assert calls or limit < 300

    def test_kept_and_deleted(self, client: Any) -> None:
        first = client.responses.create(model="scripted", input="2 + 2?")
        assert client.responses.retrieve(first.id).output_text == first.output_text
        with pytest.raises(openai.BadRequestError, match="without its events"):
            client.responses.retrieve(first.id, stream=True)
        client.responses.delete(first.id)
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(first.id)


class TestTheRest:
    def test_completions(self, served: Served, client: Any) -> None:
        served.say(" 4, five")
        got = client.completions.create(model="scripted", prompt="1, 2, 3,", stop=",")
        assert got.choices[0].text == " 4"
        assert served.prompts == ["1, 2, 3,"]
        with strict(
            served.url, False
        ) as lenient:  # finish_reason: OpenAI sends null, its types don't
            ask = {"model": "scripted", "prompt": "1, 2, 3,", "stream": True}
            chunks = list(lenient.completions.create(**ask))
        assert "".join(chunk.choices[0].text for chunk in chunks) == " 4, five"

    def test_models(self, client: Any) -> None:
        assert [model.id for model in client.models.list()] == ["scripted"]
        assert client.models.retrieve("scripted").max_model_len == CONTEXT
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("another")

    @pytest.mark.parametrize("form", ["float", None])
    def test_embeddings(self, form: str | None) -> None:
        """By itself the library asks for base64, which it decodes: its types have lists alone."""
        embedder, texts = load(GOLDEN.parent / "retrieval" / "embedder"), ["Two and two.", "Four."]
        want = embedder.embed(texts).tolist()
        with serving(embedder) as server:
            with strict(f"http://127.0.0.1:{server.port}", form is not None) as client:
                asked = {} if form is None else {"encoding_format": form}
                got = client.embeddings.create(model="x", input=texts, **asked)
            assert [one.index for one in got.data] == [0, 1]
            assert got.data[1].embedding == pytest.approx(want[1], abs=1e-5)
