"""OpenAI's own library asks for answers in a form, and reads them into its types."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from qwen3_mlx.model import load
from tests.clients.libraries import library
from tests.serve.server import Server, serving

openai = library("openai")
pydantic = pytest.importorskip("pydantic")

City = pydantic.create_model(
    "City",
    name=(str, pydantic.Field(max_length=10)),
    size=(int, pydantic.Field(ge=0, le=99)),
)
ASK: Any = [{"role": "user", "content": "Name a city."}]
SAME: Any = {"model": "demo", "messages": ASK, "max_tokens": 700, "seed": 1}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(load("demo")) as one:
        yield one


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    url = f"http://127.0.0.1:{server.port}/v1"
    with openai.OpenAI(
        base_url=url, api_key="x", max_retries=0, _strict_response_validation=True
    ) as one:
        yield one


def test_chat_completions_parse(client: Any) -> None:
    got = client.chat.completions.parse(response_format=City, **SAME)
    assert isinstance(got.choices[0].message.parsed, City)
    with client.chat.completions.stream(response_format=City, **SAME) as stream:
        last = [*stream] and stream.get_final_completion()
    assert last.choices[0].message.parsed == got.choices[0].message.parsed


def test_responses_parse(client: Any) -> None:
    got = client.responses.parse(
        model="demo", input="Name a city.", text_format=City, max_output_tokens=700
    )
    assert isinstance(got.output_parsed, City)


@pytest.mark.parametrize("named", [False, True])
def test_a_required_call_is_parsed(client: Any, named: bool) -> None:
    choice: Any = {"type": "function", "function": {"name": "City"}} if named else "required"
    tool = openai.pydantic_function_tool(City)
    got = client.chat.completions.parse(
        tools=[tool], tool_choice=choice, parallel_tool_calls=False, **SAME
    )
    (call,) = got.choices[0].message.tool_calls
    assert isinstance(call.function.parsed_arguments, City)


def test_a_keyword_that_cannot_be_honoured_is_a_bad_request(client: Any) -> None:
    wrong = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"not": {}}}}
    with pytest.raises(openai.BadRequestError, match="Unimplemented"):
        client.chat.completions.create(response_format=wrong, **SAME)
