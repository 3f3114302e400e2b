"""Items of /v1/responses: all that a client sends reaches the prompt, in the order it was said."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qwen3_mlx.model import Qwen3
from qwen3_mlx.serve import responses
from qwen3_mlx.serve.api_error import ApiError
from tests.scripted import say
from tests.serve.asking import CALL_SCRIPT, PATHS, body
from tests.serve.server import Json, Server

ASKED: Json = {"role": "user", "content": "hi"}
MORE: Json = {"role": "user", "content": "and?"}


def message(text: Any) -> Json:
    return {"type": "message", "role": "assistant", "content": text}


def parts(*texts: str) -> Json:
    return message([{"type": "output_text", "text": text} for text in texts])


def thought(text: str) -> Json:
    return {"type": "reasoning", "content": [{"type": "reasoning_text", "text": text}]}


def call(id: str, **more: Any) -> Json:
    return {"type": "function_call", "call_id": id, "name": "f", "arguments": "{}"} | more


def output(id: str, text: str = "done") -> Json:
    return {"type": "function_call_output", "call_id": id, "output": text}


def read(*items: Json) -> list[Json]:
    """The messages, without what is the same in all."""
    found = responses.read({"input": list(items)}, responses.Kept()).messages
    return [{k: _plain(v) for k, v in one.items() if k != "tool_call_id"} for one in found]


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [one.get("id") or one.get("text") for one in value]
    return value


def said(text: Any, *calls: str, **more: str) -> Json:
    found: Json = {"role": "assistant", "content": text} | more
    return found | ({"tool_calls": list(calls)} if calls else {})


TOOL: Json = {"role": "tool", "content": "done"}


@pytest.mark.parametrize(
    ("items", "want"),
    [
        ([message("A"), message("B")], [said(["A\nB"])]),
        ([parts("A"), parts("B", "C"), message("D")], [said(["A\nB", "C\nD"])]),
        ([parts("A"), parts("\n\nB")], [said(["A\n\nB"])]),
        ([message("A"), call("1"), message("B"), output("1")], [said(["A\nB"], "1"), TOOL]),
        ([parts("A"), call("1"), output("1"), parts("B")], [said(["A"], "1"), TOOL, said(["B"])]),
        ([thought("T"), thought("U"), message("A")], [said("A", reasoning_content="T\nU")]),
        ([message("A"), thought("T"), message("B")], [said("A"), said("B", reasoning_content="T")]),
        ([message(""), message("B"), message(None)], [said("B")]),
    ],
)  # fmt: skip
def test_nothing_that_was_said_is_lost(items: list[Json], want: list[Json]) -> None:
    assert read(ASKED, *items, MORE) == [ASKED, *want, MORE]


@pytest.mark.parametrize("part", [{"type": "input_image", "image_url": "x"}, 5])
def test_a_part_that_is_no_text_is_refused_behind_another_message(
    server: Server, part: Any
) -> None:
    items = [ASKED, message("A"), message([part]), MORE]
    assert server.post(PATHS["responses"], {"input": items}).status == 400


TURNS = {
    "text": "One.",
    "thought": "<think>\nHm.\n</think>\n\nOne.",
    "calls": CALL_SCRIPT,
    "text behind a call": CALL_SCRIPT + "\nThat is all.",
    "no call": "One.\n<tool_call>\n{no call}\n</tool_call>\nTwo.",
    "unreadable": CALL_SCRIPT.replace('"days": 2,', '"days": 2'),
}


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_what_is_kept_is_what_the_items_would_say(
    server: Server, demo: Qwen3, monkeypatch: pytest.MonkeyPatch, turn: str, stream: bool
) -> None:
    """Sent back as items or named by its id, a turn is the same prompt; no text is missing."""
    say(monkeypatch, demo, TURNS[turn])
    asked = body("responses", tools=True, max_output_tokens=900)
    path = PATHS["responses"]
    got = server.stream(path, asked)[-1].data["response"] if stream else server.ok(path, asked)
    again = {"tools": asked["tools"], "max_output_tokens": 1}
    kept = server.ok(path, again | {"previous_response_id": got["id"], "input": [MORE]})
    items = server.ok(path, again | {"input": [ASKED, *got["output"], MORE]})
    assert kept["usage"]["input_tokens"] == items["usage"]["input_tokens"]
    texts = [p["text"] for i in got["output"] if i["type"] == "message" for p in i["content"]]
    for word in ("One", "That is all", "Two"):
        assert (word in TURNS[turn]) is any(word in text for text in texts)


def test_a_call_of_ours_that_was_cut_is_read_once() -> None:
    cut = call("1", status="incomplete", arguments='{"a"')
    text = '<tool_call>\n{"name": "f", "arguments": {"a"'
    assert read(ASKED, parts("A"), cut, parts(text)) == [ASKED, said([f"A\n{text}"])]
    for behind in ([parts("B")], [parts(text), output("1")], []):
        kept = read(ASKED, cut, *behind)[1]
        assert kept["tool_calls"] == ["1"], "another's says it nowhere else"


def test_calls_of_other_kinds_are_calls_with_their_results(server: Server) -> None:
    patch = {"type": "custom_tool_call", "call_id": "1", "name": "patch", "input": "*** ü"}
    shell = {"type": "local_shell_call", "id": "x", "call_id": "2", "status": "completed"}
    shell |= {"action": {"type": "exec", "command": ["ls"]}}
    patched = {"type": "custom_tool_call_output", "call_id": "1", "output": "y"}
    listed = {"type": "local_shell_call_output", "id": "2", "output": "z"}
    items = [ASKED, patch, shell, patched, listed]
    _, calls, first, second = responses.read({"input": items}, responses.Kept()).messages
    functions = [one["function"] for one in calls["tool_calls"]]
    assert [one["name"] for one in functions] == ["patch", "local_shell"]
    assert json.loads(functions[0]["arguments"]) == {"input": "*** ü"}
    assert json.loads(functions[1]["arguments"]) == {"action": shell["action"]}
    assert (first["tool_call_id"], second["tool_call_id"]) == ("1", "2")
    got = server.post(PATHS["responses"], {"input": items, "max_output_tokens": 1})
    assert got.status == 200 and "x-qwen3-mlx-ignored" not in got.headers


def test_items_that_only_others_can_read_are_named(server: Server) -> None:
    found = {"type": "web_search_call", "id": "ws_1", "status": "completed"}
    items = [ASKED, found, message("It rains."), MORE]
    got = server.post(PATHS["responses"], {"input": items, "max_output_tokens": 1})
    assert got.status == 200
    assert got.headers["x-qwen3-mlx-ignored"] == "input[1] (web_search_call)"
    assert server.post(PATHS["responses"], {"input": [{"type": 3}, ASKED]}).status == 400


def test_an_item_is_found_by_its_id(
    server: Server, demo: Qwen3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Vercel's SDK sends the ids of items that are stored, not the items."""
    say(monkeypatch, demo, CALL_SCRIPT)
    path, asked = PATHS["responses"], body("responses", tools=True, max_output_tokens=900)
    got = server.ok(path, asked)
    again = {"tools": asked["tools"], "max_output_tokens": 1}
    named = [{"type": "item_reference", "id": item["id"]} for item in got["output"]]
    results = [output(i["call_id"]) for i in got["output"] if i["type"] == "function_call"]
    whole = server.ok(path, again | {"input": [ASKED, *got["output"], *results]})
    for refers in (named, [{"id": one["id"]} for one in named]):
        found = server.ok(path, again | {"input": [ASKED, *refers, *results]})
        assert found["usage"]["input_tokens"] == whole["usage"]["input_tokens"]
    assert server("DELETE", f"{path}/{got['id']}").status == 200
    gone = server.post(path, again | {"input": [ASKED, *named]})
    assert gone.status == 404 and named[0]["id"] in gone.json["error"]["message"]
    assert server.post(path, {"input": [{"type": "item_reference"}]}).status == 400
    with pytest.raises(ApiError, match="no item"):
        responses.Kept().item("msg_1")


def test_the_items_of_a_request_are_listed(server: Server) -> None:
    """As OpenAI's libraries page through them: the last first, each with an id."""
    path, short = PATHS["responses"], {"max_output_tokens": 1}
    first = server.ok(path, short | {"input": "Hi ü"})
    said = server("GET", f"{path}/{first['id']}/input_items").json
    (item,) = said["data"]
    assert item["type"] == "message" and item["role"] == "user" and not said["has_more"]
    assert item["content"] == [{"type": "input_text", "text": "Hi ü"}]
    assert said["first_id"] == said["last_id"] == item["id"]

    named = {"type": "item_reference", "id": first["output"][0]["id"]}
    twice = {**message("A"), "id": "msg_same"}
    given = [named, ASKED, twice, twice, call("1"), output("1"), {**MORE, "id": 7}]
    second = server.ok(path, short | {"input": given, "previous_response_id": first["id"]})
    place = f"{path}/{second['id']}/input_items"
    whole = server("GET", f"{place}?order=asc&limit=100").json["data"]
    assert [one["type"] for one in whole[4:]] == [
        *("function_call", "function_call_output", "message")
    ]
    assert len(whole) == len(given) and whole[0] == first["output"][0]
    pages, query = [], "limit=3"
    while True:
        page = server("GET", f"{place}?{query}").json
        pages += page["data"]
        if not page["has_more"]:
            break
        query = f"limit=3&after={page['last_id']}"
    assert pages == whole[::-1] and len({one["id"] for one in whole}) == len(whole)
    for wrong in ("limit=0", "limit=101", "limit=x", "order=up", "after=msg_9"):
        got = server("GET", f"{place}?{wrong}")
        assert got.status == 400 and got.json["error"]["param"] == wrong.partition("=")[0]
    gone = server("GET", f"{path}/resp_9/input_items")
    assert gone.status == 404 and gone.json["error"]["param"] is None
