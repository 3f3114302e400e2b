"""Fields: harmless, unknown and named, wanted and not to be had; models by other names."""

from __future__ import annotations

from typing import Any

import pytest

from qwen3_mlx.model import Qwen3
from qwen3_mlx.serve import chat_completions, messages, responses
from qwen3_mlx.serve.fields import Fields, sampling
from qwen3_mlx.serve.harmless_fields import HARMLESS
from tests.scripted import say
from tests.serve.asking import PATHS, body
from tests.serve.server import Server, serving

SHORT = {"chat": "max_tokens", "messages": "max_tokens", "responses": "max_output_tokens"}
every = pytest.mark.parametrize("dialect", list(PATHS))


def short(dialect: str, **more: Any) -> dict[str, Any]:
    return body(dialect, **{SHORT[dialect]: 2}) | more


@every
def test_what_nobody_knows_is_served_and_named(server: Server, dialect: str) -> None:
    for stream in (False, True):
        sent = short(dialect, stream=stream, no_such_field=1, **{"zu fällig\n": 2})
        got = server.post(PATHS[dialect], sent)
        assert got.status == 200
        assert got.headers["x-qwen3-mlx-ignored"].startswith("no_such_field, zu f")


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["", "a"], "'', a"),
        (["a", ""], "a, ''"),
        ([" ", "\t"], "' ', '\\t'"),
        ([" a "], "a"),
        (["x" * 499, "y"], "x" * 499 + ","),
        (["x" * 498, "y"], "x" * 498 + ","),
    ],
)
def test_a_field_of_blanks_breaks_no_header(server: Server, names: list[str], shown: str) -> None:
    """A header that begins or ends with a blank is none: the connection was closed unanswered."""
    got = server.post(PATHS["chat"], short("chat", **dict.fromkeys(names, 1)))
    assert got.status == 200 and got.headers["x-qwen3-mlx-ignored"] == shown


@every
def test_what_changes_nothing_is_not_even_named(server: Server, dialect: str) -> None:
    known = dict.fromkeys(("user", "metadata", "service_tier", "prompt_cache_key", "betas"), "x")
    assert known.keys() <= HARMLESS
    got = server.post(PATHS[dialect], short(dialect) | known | {"metadata": {"a": "b"}})
    assert got.status == 200 and "x-qwen3-mlx-ignored" not in got.headers


def test_tools_of_kinds_that_only_others_run(server: Server) -> None:
    """Codex sends web_search and namespace, whatever the server has."""
    tools = [{"type": "function", "name": "f", "parameters": {}}, {"type": "web_search"}]
    got = server.post(PATHS["responses"], short("responses", tools=tools))
    assert got.status == 200 and got.headers["x-qwen3-mlx-ignored"] == "tools[1] (web_search)"
    tools = [{"type": "web_search_20250305", "name": "web_search", "max_uses": 1}]
    got = server.post(PATHS["messages"], short("messages", tools=tools))
    assert got.status == 200 and "web_search_20250305" in got.headers["x-qwen3-mlx-ignored"]


@pytest.mark.parametrize(
    ("dialect", "field", "value"),
    [
        ("chat", "n", 2),
        ("chat", "n", True),
        ("chat", "best_of", True),
        ("chat", "skip_special_tokens", 1),
        ("responses", "background", 0),
        ("responses", "top_logprobs", False),
        ("chat", "best_of", 3),
        ("chat", "audio", {"voice": "x"}),
        ("chat", "modalities", ["audio"]),
        ("chat", "functions", [{"name": "f"}]),
        ("chat", "skip_special_tokens", False),
        ("chat", "add_generation_prompt", False),
        ("messages", "mcp_servers", [{"url": "x"}]),
        ("messages", "compaction", {"type": "summarize"}),
        ("responses", "background", True),
        ("responses", "conversation", "c"),
        ("responses", "top_logprobs", 3),
        ("responses", "include", ["message.output_text.logprobs"]),
    ],
)
def test_what_can_not_be_had_is_refused_by_its_name(
    server: Server, dialect: str, field: str, value: Any
) -> None:
    got = server.post(PATHS[dialect], short(dialect, **{field: value}))
    assert got.status == 400 and field in got.json["error"]["message"]
    if dialect != "messages":
        assert got.json["error"]["param"] == field


def test_what_a_continued_message_needs_is_taken(server: Server) -> None:
    beside = {"add_generation_prompt": False, "continue_final_message": True}
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hel"}]
    got = server.post(PATHS["chat"], short("chat", messages=said, **beside))
    assert got.status == 200 and "x-qwen3-mlx-ignored" not in got.headers
    more = {"messages": [{"role": "user", "content": "Hi"}], "add_generation_prompt": False}
    assert server.post("/tokenize", more).status == 400


EMPTY: list[tuple[str, dict[str, Any]]] = [
    ("chat", {"suffix": "", "top_logprobs": 0, "grammar": "", "guided_regex": ""}),
    ("chat", {"skip_special_tokens": True, "add_generation_prompt": True}),
    ("chat", {"functions": [], "modalities": [], "guided_choice": [], "stop": ""}),
    ("chat", {"reasoning_effort": "default"}),
    ("responses", {"reasoning": {"effort": "default"}, "top_logprobs": 0}),
    ("chat", {"n": 1.0}),
    ("completions", {"suffix": "", "echo": False, "top_p": 0, "logprobs": 0}),
]


@pytest.mark.parametrize(("dialect", "more"), EMPTY, ids=str)
def test_empty_values_ask_for_nothing(server: Server, dialect: str, more: dict[str, Any]) -> None:
    path, sent = "/v1/completions", {"prompt": "a", "max_tokens": 2}
    if dialect != "completions":
        path, sent = PATHS[dialect], short(dialect)
    got = server.post(path, sent | more)
    assert got.status == 200 and "x-qwen3-mlx-ignored" not in got.headers, got.body


def test_logprobs_are_wanted_where_their_likeliest_are(server: Server) -> None:
    got = server.post(PATHS["chat"], short("chat", top_logprobs=1))
    assert got.status == 400 and "top_logprobs" in got.json["error"]["message"]


@every
def test_a_top_p_of_0_is_the_likeliest_token(server: Server, dialect: str) -> None:
    """OpenAI's range begins at 0."""
    asked = short(dialect, **{SHORT[dialect]: 12}, temperature=1.5, top_k=0)
    greedy = server.ok(PATHS[dialect], asked | {"temperature": 0})
    for seed in range(3):
        got = server.ok(PATHS[dialect], asked | {"top_p": 0, "seed": seed})
        assert said(got) == said(greedy)


def said(got: dict[str, Any]) -> Any:
    if "choices" in got:
        return got["choices"][0]["message"]["content"]
    if got["object" if "object" in got else "type"] == "response":
        return [item.get("content") for item in got["output"]]
    return got["content"]


@pytest.mark.parametrize(
    ("path", "name"),
    [*((PATHS[dialect], name) for dialect, name in SHORT.items()),
     (PATHS["chat"], "max_completion_tokens"), ("/v1/completions", "max_tokens")],
)  # fmt: skip
def test_a_limit_of_minus_1_is_none(
    server: Server, demo: Qwen3, monkeypatch: pytest.MonkeyPatch, path: str, name: str
) -> None:
    say(monkeypatch, demo, LONG)
    dialect = next((one for one, its in PATHS.items() if its == path), "")
    sent = body(dialect, enable_thinking=False) if dialect else {"prompt": "a"}
    got = server.ok(path, sent | {name: -1})
    count = len(demo.tokenizer.encode(LONG)) + 1
    used = got["usage"].get("output_tokens") or got["usage"].get("completion_tokens")
    assert used == count > 100
    for wrong in (0, -2):
        assert server.post(path, sent | {name: wrong}).status == 400


LONG = " ".join(["one two three four five"] * 20)


def test_blocks_of_what_anthropic_runs_are_skipped_and_named(server: Server) -> None:
    used = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "x"}}
    found = {"type": "web_search_tool_result", "tool_use_id": "s", "content": []}
    answer = {"role": "assistant", "content": [{"type": "text", "text": "It rains."}, used, found]}
    user = {"role": "user", "content": "hi"}
    got = server.post(PATHS["messages"], short("messages", messages=[user, answer, user]))
    assert got.status == 200
    named = "messages[1].content[1] (server_tool_use), messages[1].content[2] (web_search_tool_"
    assert got.headers["x-qwen3-mlx-ignored"].startswith(named)


def test_documents_of_text_are_read(server: Server) -> None:
    plain = {"type": "text", "media_type": "text/plain", "data": "It rained."}
    parts = {"type": "content", "content": [{"type": "text", "text": "It snowed."}]}
    result = {"type": "search_result", "source": "x", "title": "Hail", "content": parts["content"]}
    blocks: list[Any] = [{"type": "document", "source": plain, "title": "May", "context": "Oslo"},
              {"type": "document", "source": parts}, result]  # fmt: skip
    inside = {"type": "tool_result", "tool_use_id": "a", "content": blocks}
    for content in (blocks, [inside]):
        ask = messages.read({"max_tokens": 9, "messages": [{"role": "user", "content": content}]})
        assert ask.messages[0]["content"] == "May\nOslo\nIt rained.\nIt snowed.\nHail\nIt snowed."
    pdf = {"type": "base64", "media_type": "application/pdf", "data": "x"}
    for wrong in (pdf, None, "x", {"type": "text", "data": 3}):
        block = {"type": "document", "source": wrong}
        sent = short("messages", messages=[{"role": "user", "content": [block]}])
        assert server.post(PATHS["messages"], sent).status == 400


@every
def test_a_wrong_type_names_its_field(server: Server, dialect: str) -> None:
    for field, value in (("temperature", "hot"), ("top_p", True), ("stream", 1), ("seed", 0.5)):
        got = server.post(PATHS[dialect], short(dialect, **{field: value}))
        assert got.status == 400 and field in got.json["error"]["message"]


@every
@pytest.mark.parametrize(
    "wrong",
    [
        {"name": None}, {"name": {"a": 1}}, {"name": " "}, {"name": 3}, {"parameters": "x"},
        {"parameters": {"type": "string"}}, {"parameters": {"properties": [1]}}, {"strict": "yes"},
    ],
)  # fmt: skip
def test_a_tool_that_is_none_is_refused_by_its_place(
    server: Server, dialect: str, wrong: dict[str, Any]
) -> None:
    right = {"name": "f", "parameters": {"type": "object", "properties": {}}}
    for more in ({}, {"tool_choice": {"type": "any"} if dialect == "messages" else "required"}):
        tools = [shaped(dialect, right), shaped(dialect, right | {"name": "g"} | wrong)]
        got = server.post(PATHS[dialect], short(dialect, tools=tools, **more))
        assert got.status == 400 and "tools[1]" in got.json["error"]["message"], got.body


def test_qwen_agents_list_of_parameters_is_a_schema(server: Server) -> None:
    given = [{"name": "a", "type": "integer", "description": "One.", "required": True},
             {"name": "b", "type": "string"}]  # fmt: skip
    tool = shaped("chat", {"name": "f", "parameters": given})
    found = chat_completions.read(short("chat", tools=[tool])).tools[0]["function"]["parameters"]
    assert found["required"] == ["a"] and found["properties"]["b"] == {"type": "string"}
    sent = short("chat", tools=[tool], tool_choice="required", enable_thinking=False)
    assert server.post(PATHS["chat"], sent).status == 200
    wrong = shaped("chat", {"name": "f", "parameters": [{"type": "integer"}]})
    assert server.post(PATHS["chat"], short("chat", tools=[wrong])).status == 400


def shaped(dialect: str, function: dict[str, Any]) -> dict[str, Any]:
    """A function as a tool of `dialect`."""
    if dialect == "chat":
        return {"type": "function", "function": function}
    if dialect == "responses":
        return {"type": "function", **function}
    return {key.replace("parameters", "input_schema"): value for key, value in function.items()}


@every
def test_another_models_name(server: Server, demo: Qwen3, dialect: str) -> None:
    assert server.post(PATHS[dialect], short(dialect, model="claude-haiku-9")).status == 200
    with serving(demo, strict=True) as strict:
        got = strict.post(PATHS[dialect], short(dialect, model="claude-haiku-9"))
        assert got.status == 404 and "claude-haiku-9" in got.json["error"]["message"]
        assert strict.post(PATHS[dialect], short(dialect, model="demo")).status == 200


@pytest.mark.parametrize(
    ("seed", "want"), [(-1, {}), (-(2**63) + 1, {}), (-1.0, {}), (0, {"seed": 0}), (7, {"seed": 7})]
)
def test_a_negative_seed_is_a_random_one(seed: float, want: dict[str, int]) -> None:
    assert sampling(Fields({"seed": seed})) == want


@pytest.mark.parametrize(
    ("dialect", "more", "named"),
    [
        ("chat", {"chat_template_kwargs": {"enable_thinkin": False}}, "enable_thinkin"),
        ("chat", {"reasoning": {"exclude": True}}, "exclude"),
        ("messages", {"thinking": {"type": "adaptive", "tokens": 9}}, "tokens"),
        ("messages", {"output_config": {"effort": "low", "form": 1}}, "form"),
        ("chat", {"response_format": {"type": "json_object", "schem": {}}}, "schem"),
        ("responses", {"text": {"form": {}}}, "form"),
    ],
)
def test_unknown_fields_within_an_object_are_named(
    server: Server, dialect: str, more: dict[str, Any], named: str
) -> None:
    got = server.post(PATHS[dialect], short(dialect, **more))
    assert got.status == 200
    assert got.headers["x-qwen3-mlx-ignored"] == f"{next(iter(more))}.{named}"


def test_what_real_clients_send_within_an_object_is_not_named(server: Server) -> None:
    format = {"type": "json_schema", "name": "a", "strict": True, "schema": {"type": "integer"}}
    sent: dict[str, dict[str, Any]] = {
        "chat": {"stream": True, "stream_options": {"include_usage": True, "x": 1},
                 "logit_bias": {"5": 1}, "response_format": {"type": "json_schema",
                 "json_schema": {"name": "a", "strict": True, "schema": {"type": "integer"}}}},
        "responses": {"reasoning": {"effort": "low", "summary": "auto"},
                      "text": {"verbosity": "low", "format": format}},
        "messages": {"thinking": {"type": "adaptive", "display": "omitted"},
                     "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
    }  # fmt: skip
    for dialect, more in sent.items():
        got = server.post(PATHS[dialect], short(dialect, **more))
        assert got.status == 200 and "x-qwen3-mlx-ignored" not in got.headers, got.headers


def test_a_fault_in_a_tool_is_named_by_its_own_path(server: Server) -> None:
    for function in ({"name": "\ud800"}, {"name": ""}, {"name": "f", "parameters": {"type": 3}}):
        sent = short("chat", tools=[{"type": "function", "function": function}])
        said = server.post(PATHS["chat"], sent).json["error"]["message"]
        assert said.startswith("tools[0].function.") and "function.function" not in said


BLOCKS: list[tuple[Any, str, str]] = [
    ({"type": "text", "text": None}, "content[0].text: got null; expected text", ""),
    ({"type": "image", "source": {}}, 'content[0]: got "image"; expected a text', "into words"),
    ({"type": "document", "source": {"type": "url"}}, 'source.type: got "url"', "into words"),
]


@pytest.mark.parametrize(("block", "said", "hint"), BLOCKS, ids=str)
def test_a_block_that_is_no_text_says_what_to_do(
    server: Server, block: Any, said: str, hint: str
) -> None:
    got = server.post(PATHS["messages"], short("messages", messages=[user([block])]))
    assert got.status == 400
    message, _, told = got.json["error"]["message"].partition("\nhint: ")
    assert said in message and hint in told


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


@pytest.mark.parametrize("empty", ["", []], ids=str)
def test_an_empty_last_message_of_the_assistant_is_nothing_to_go_on_with(
    server: Server, empty: Any
) -> None:
    """Anthropic's API allows it in the last place alone."""
    last = {"role": "assistant", "content": empty}
    got, alone = (
        server.post(PATHS["messages"], short("messages", messages=talk))
        for talk in ([user("Hi"), last], [user("Hi")])
    )
    assert got.status == 200
    assert sum_of(got.json["usage"]) == sum_of(alone.json["usage"])


def sum_of(usage: dict[str, int]) -> int:
    return sum(count for name, count in usage.items() if name != "output_tokens")


@pytest.mark.parametrize(
    ("dialect", "hint"), [("chat", "continue_final_message"), ("chat", "tools")]
)
def test_hints_name_fields_of_the_request(server: Server, dialect: str, hint: str) -> None:
    last = [user("Hi"), {"role": "assistant", "content": "a"}]
    more: dict[str, Any] = {"tool_choice": "required"} if hint == "tools" else {"messages": last}
    told = server.post(PATHS[dialect], short(dialect, **more)).json["error"]["message"]
    assert hint in told.partition("hint: ")[2] and "tools=" not in told


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "Expecting value: line 1"),
        (b'{"a": NaN}', "NaN is no JSON"),
        (b'{"a": "\xe9"}', "byte 0xe9"),
        (b'{"a": ' + b"9" * 5000 + b"}", "integer string"),
        (b"[" * 100_000, "recursion"),
    ],
    ids=["nothing", "NaN", "latin", "long", "deep"],
)
def test_a_body_that_is_no_json_says_why(server: Server, body: bytes, said: str) -> None:
    got = server.post(PATHS["chat"], body)
    assert got.status == 400 and said in got.json["error"]["message"]
    assert got.json["error"]["code"] == "invalid_json"


@pytest.mark.parametrize("said", ["", "false", "False", "0"])
def test_a_kept_response_is_given_whole_where_no_stream_is_asked_for(said: str) -> None:
    responses.check_whole({"stream": said})
