"""Anthropic's own library, which checks every answer against its types."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients.libraries import library
from tests.clients.served import THOUGHT, Served, call, results

anthropic = library("anthropic")

ASK: Any = [{"role": "user", "content": "What is 2 + 2?"}]
SUM: Any = {
    "name": "add",
    "description": "Add two numbers.",
    "input_schema": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
    },
}


@pytest.fixture
def client(served: Served) -> Iterator[Any]:
    with anthropic.Anthropic(
        base_url=served.url, api_key="x", max_retries=0, _strict_response_validation=True
    ) as one:
        yield one


def adds(prompt: str) -> str:
    """Calls the tool, then answers with its result."""
    found = results(prompt)
    return f"It is {found[0]}." if found else THOUGHT + call("add", a=2, b=2)


class TestMessages:
    def test_whole(self, served: Served, client: Any) -> None:
        served.say(THOUGHT + "It is 4.")
        got = client.messages.create(model="scripted", max_tokens=1000, messages=ASK)
        assert [block.type for block in got.content] == ["thinking", "text"]
        assert got.content[0].thinking.strip() == "Two and two."
        assert got.content[1].text == "It is 4."
        assert got.stop_reason == "end_turn"
        usage = got.usage
        assert usage.input_tokens + usage.cache_read_input_tokens == served.turns[0].prompt

    def test_streamed(self, served: Served, client: Any) -> None:
        served.say(THOUGHT + "It is 4.")
        with client.messages.stream(
            model="scripted",
            max_tokens=2000,
            messages=ASK,
            system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
            thinking={"type": "enabled", "budget_tokens": 1024},
        ) as stream:
            text = "".join(stream.text_stream)
            final = stream.get_final_message()
        assert text == "It is 4."
        assert [block.type for block in final.content] == ["thinking", "text"]
        assert final.content[0].signature
        assert final.usage.output_tokens > 0
        assert "Be brief." in served.prompts[0]

    @pytest.mark.parametrize("kind", ["disabled", "between_tools"])
    def test_thinking_off(self, served: Served, client: Any, kind: str) -> None:
        served.say(THOUGHT + "It is 4.")
        got = client.messages.create(
            model="scripted", max_tokens=1000, messages=ASK, thinking={"type": kind}
        )
        assert [block.type for block in got.content] == ["text"]

    def test_a_round_of_tools(self, served: Served, client: Any) -> None:
        served.say(adds)
        ask = {"model": "scripted", "max_tokens": 1000, "tools": [SUM]}
        first = client.messages.create(**ask, messages=ASK)
        assert first.stop_reason == "tool_use"
        made = first.content[-1]
        assert (made.name, made.input) == ("add", {"a": 2, "b": 2})
        result = {"type": "tool_result", "tool_use_id": made.id, "content": "4"}
        content = [block.model_dump(exclude_none=True) for block in first.content]
        said = [{"role": "assistant", "content": content}, {"role": "user", "content": [result]}]
        second = client.messages.create(**ask, messages=[*ASK, *said])
        assert second.content[-1].text == "It is 4."
        assert second.usage.cache_read_input_tokens >= served.turns[0].prompt

    @pytest.mark.parametrize("streamed", [False, True])
    def test_the_tool_runner_sends_the_whole_talk(
        self, served: Served, client: Any, streamed: bool
    ) -> None:
        """It asks for a thread first, in which later requests would hold the new messages alone."""
        served.say(adds)

        @anthropic.beta_tool
        def add(a: int, b: int) -> str:
            """Add two numbers."""
            return str(a + b)

        ask = {"model": "scripted", "max_tokens": 1000, "tools": [add], "messages": ASK}
        runner = client.beta.messages.tool_runner(**ask, stream=streamed)
        said = [one.get_final_message() if streamed else one for one in runner]
        assert [one.stop_reason for one in said] == ["tool_use", "end_turn"]
        assert said[-1].content[-1].text == "It is 4."
        assert "What is 2 + 2?" in served.prompts[-1] and "<tools>" in served.prompts[-1]

    @pytest.mark.parametrize("thread", ["create", "continue"])
    def test_a_thread_is_refused_by_its_code(self, client: Any, thread: str) -> None:
        more = {"previous_message_id": "msg_1"} if thread == "continue" else {}
        ask = {"model": "scripted", "messages": ASK, "thread": {"type": thread, **more}}
        with pytest.raises(anthropic.BadRequestError, match="thread: got") as caught:
            client.beta.messages.create(**ask, max_tokens=9)
        assert caught.value.error_code == "thread_unsupported_request"
        assert "whole conversation" in str(caught.value)

    def test_pieces_of_calls(self, served: Served, client: Any) -> None:
        served.say(call("add", a=1, b=2) + "\n" + call("add", a=3, b=4))
        with client.messages.stream(
            model="scripted", max_tokens=1000, messages=ASK, tools=[SUM]
        ) as stream:
            kinds = [event.type for event in stream]
            final = stream.get_final_message()
        assert "input_json" in kinds
        assert [block.input for block in final.content] == [{"a": 1, "b": 2}, {"a": 3, "b": 4}]
        assert final.stop_reason == "tool_use"

    def test_a_stop_sequence(self, served: Served, client: Any) -> None:
        served.say("one, two, three")
        got = client.messages.create(
            model="scripted", max_tokens=1000, messages=ASK, stop_sequences=["two"]
        )
        assert got.content[0].text == "one, "
        assert (got.stop_reason, got.stop_sequence) == ("stop_sequence", "two")

    def test_what_is_refused(self, client: Any) -> None:
        image = {"type": "image", "source": {"type": "url", "url": "http://localhost/x.png"}}
        said = [{"role": "user", "content": [image]}]
        with pytest.raises(anthropic.BadRequestError) as caught:
            client.messages.create(model="scripted", max_tokens=9, messages=said)
        assert caught.value.body["error"]["type"] == "invalid_request_error"


class TestTheRest:
    def test_counted_tokens_are_those_of_the_turn(self, served: Served, client: Any) -> None:
        ask = {"model": "scripted", "messages": ASK, "tools": [SUM], "system": "Be brief."}
        counted = client.messages.count_tokens(**ask).input_tokens
        client.messages.create(**ask, max_tokens=1000)
        assert counted == served.turns[0].prompt

    def test_models(self, client: Any) -> None:
        assert [model.id for model in client.models.list()] == ["scripted"]
        assert client.models.retrieve("scripted").display_name == "scripted"
        with pytest.raises(anthropic.NotFoundError) as caught:
            client.models.retrieve("another")
        assert caught.value.body["type"] == "error"
