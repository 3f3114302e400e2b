"""`benchmarks.calls`: questions of both sources, asked to their end, judged by our checker."""

import json
from pathlib import Path

import pytest

from benchmarks import bfcl, calls
from benchmarks.call_check import (
    ABSENT,
    CATEGORIES,
    Expected,
    Question,
    Step,
    Turn,
    check,
    fault,
    has_type,
    same,
)
from benchmarks.call_sitting import Said, Sitting
from qwen3_mlx.model import Qwen3
from tests import tiny
from tests.scripted import answer


@pytest.fixture(scope="module")
def model() -> Qwen3:
    return Qwen3(tiny.runtime(8, max_position_embeddings=16384))


LIMITED = {"max_tokens": 200}
SPEED = {
    "type": "function",
    "function": {
        "name": "speed",
        "description": "Meters by seconds.",
        "parameters": {
            "type": "object",
            "properties": {
                "meters": {"type": "number"},
                "seconds": {"type": "integer"},
                "unit": {"type": "string"},
            },
            "required": ["meters", "seconds"],
        },
    },
}
WANTED = Expected("speed", {"meters": [5, 5.5], "seconds": [2], "unit": ["m/s", ABSENT]})


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        ({"meters": 5, "seconds": 2}, ""),
        ({"meters": 5.0, "seconds": 2, "unit": "M / s"}, ""),
        ({"meters": 5.5, "seconds": 2}, ""),
        ({"meters": 6, "seconds": 2}, "meters is 6"),
        ({"meters": "5", "seconds": 2}, "meters is '5', not of the type number"),
        ({"meters": True, "seconds": 2}, "not of the type number"),
        ({"meters": 5, "seconds": 2.0}, "not of the type integer"),
        ({"meters": 5}, "seconds is missing"),
        ({"meters": 5, "seconds": 2, "unit": ""}, "unit is ''"),
        ({"meters": 5, "seconds": 2, "x": 1}, "speed got x"),
    ],
)
def test_a_call_is_judged_by_types_and_allowed_values(arguments: dict, wrong: str) -> None:
    found = fault(WANTED, ("speed", arguments), {"speed": SPEED["function"]})
    assert found == "" if wrong == "" else wrong in found


def test_calls_count_in_any_order_and_each_once() -> None:
    one, other = ({"meters": [n], "seconds": [1, 2]} for n in (3, 4))
    expected = [Expected("speed", one), Expected("speed", other)]
    said = [("speed", {"meters": n, "seconds": 1}) for n in (4, 3)]
    assert check(expected, said, [SPEED]).places == [1, 0]
    assert check(expected, said[:1], [SPEED]).wrong == "1 calls, not 2"
    assert "the same" in check(expected, [said[0], said[0]], [SPEED]).wrong
    assert "meters is 9" in check(expected, [said[0], ("speed", {"meters": 9})], [SPEED]).wrong
    assert check([], said, [SPEED]).wrong == "called speed"
    assert check([], [], [SPEED]).wrong == ""
    # the first call fits both, the second only the first: they change places
    loose = [Expected("speed", {"meters": [3, 4], "seconds": [1]}), expected[1]]
    assert check(loose, [("speed", {"meters": 4, "seconds": 1}), said[1]], [SPEED]).places == [1, 0]


@pytest.mark.parametrize(
    ("value", "allowed", "equal"),
    [
        ("2*3", "2 * 3", True),
        ("2 + 3", "2 * 3", False),
        ("It's", 'it"s', True),
        (1, True, False),
        ([1, 2], [1, 2.0], True),
        ([1, 2], [2, 1], False),
        ({"a": 1}, {"a": [1, 2], "b": ["", 3]}, True),
        ({"a": 1, "c": 1}, {"a": [1]}, False),
        ({}, {"a": [1]}, False),
        ([{"a": "x"}], [{"a": ["X"]}], True),
    ],
)
def test_values_are_equal_as_bfcl_means_it(value, allowed, equal: bool) -> None:
    assert same(value, allowed) is equal


def test_types_of_lists_are_those_of_their_items() -> None:
    numbers = {"type": "array", "items": {"type": "number"}}
    assert has_type([1, 2.5], numbers) and not has_type([1, "2"], numbers)
    assert has_type("x", {}) and not has_type({}, {"type": "string"})


def written(file: Path, lines: list[dict]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two questions in the form of BFCL's files."""
    function = {
        "name": "geo.area",
        "description": "An area.",
        "parameters": {
            "type": "dict",
            "properties": {"sides": {"type": "tuple", "items": {"type": "float"}}},
        },
    }
    asked = {
        "id": "simple_python_0",
        "question": [
            [{"role": "system", "content": "Be exact."}, {"role": "user", "content": "?"}]
        ],
        "function": [function],
    }
    truth = [{"geo.area": {"sides": [[1, 2.5]]}}]
    written(tmp_path / "BFCL_v4_simple_python.json", [asked, asked | {"id": "simple_python_1"}])
    written(
        tmp_path / "possible_answer/BFCL_v4_simple_python.json",
        [{"id": f"simple_python_{n}", "ground_truth": truth} for n in range(2)],
    )
    written(tmp_path / "BFCL_v4_irrelevance.json", [asked | {"id": "irrelevance_0"}])
    return tmp_path


def test_bfcls_files_are_read(folder: Path) -> None:
    one, _ = bfcl.questions(folder, "simple")
    assert len(bfcl.questions(folder, "simple", 1)) == 1
    schema = one.tools[0]["function"]["parameters"]
    assert schema["type"] == "object"
    assert schema["properties"]["sides"] == {"type": "array", "items": {"type": "number"}}
    sitting = Sitting(one)
    assert [m["role"] for m in sitting.messages] == ["system", "user"]
    sitting.read(Said([("geo.area", {"sides": [1.0, 2.5]})]))
    assert sitting.over and not sitting.wrong
    (other,) = bfcl.questions(folder, "irrelevance")
    assert other.turns[0].steps == []


def test_a_question_without_a_call_needs_an_answer() -> None:
    question = Question("q", "irrelevance", [SPEED], [Turn("Hi", [])])
    for said, wrong in ((Said([], "Hello."), ""), (Said([], " "), "no answer")):
        sitting = Sitting(question)
        sitting.read(said)
        assert sitting.over and sitting.wrong == wrong


def test_turns_go_on_until_something_is_wrong() -> None:
    steps = [Step([WANTED], ["2.5"]), Step([WANTED], ["7"])]
    question = Question("q", "multi_turn", [SPEED], [Turn("One?", steps), Turn("Two?", [])])
    right = ("speed", {"meters": 5, "seconds": 2})
    sitting = Sitting(question)
    for said in (Said([right]), Said([right]), Said([], "Done."), Said([], "And done.")):
        assert not sitting.over
        sitting.read(said)
    assert sitting.over and not sitting.wrong
    roles = [message["role"] for message in sitting.messages]
    assert roles == ["user", *["assistant", "tool"] * 2, "assistant", "user", "assistant"]
    early = Sitting(question)
    early.read(Said([], "No."))
    assert early.over and early.wrong == "0 calls, not 1"


def call_text(name: str, arguments: dict) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


RIGHT = call_text("speed", {"meters": 5, "seconds": 2})
SIMPLE = Question("s", "simple", [SPEED], [Turn("How fast?", [Step([WANTED], [""])])])
NONE = Question("n", "irrelevance", [SPEED], [Turn("Hello?", [])])
TURNS = Question(
    "t", "multi_turn", [SPEED], [Turn("And now?", [Step([WANTED], ["2.5"])]), Turn("Bye?", [])]
)


def test_a_model_is_scored(model: Qwen3, monkeypatch: pytest.MonkeyPatch) -> None:
    def reply(prompt: str) -> str:
        asks = prompt.rpartition("<|im_start|>user\n")[2]
        return RIGHT if asks.startswith(("How fast?", "And now?")) else "That is all."

    answer(monkeypatch, model, reply)
    ways, told = calls.runs([], ["off"]), list[str]()
    found = calls.score(model, [SIMPLE, NONE, TURNS], ways, LIMITED, [0], 2, told.append)
    row = {"simple": 100.0, "calls": 100.0, "irrelevance": 100.0, "multi_turn": 100.0}
    assert found == {"scores": {"not thinking": row}, "wrong": []}
    assert told[0].startswith("not thinking: simple 100.0 %")


def test_a_model_that_never_calls_is_right_where_nothing_fits(
    model: Qwen3, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, model, lambda prompt: "I don't know.")
    found = calls.score(
        model, [SIMPLE, NONE], calls.runs([], ["off"]), LIMITED, [0, 1], 1, lambda _: None
    )
    row = found["scores"]["not thinking"]
    assert row == {"simple": 0.0, "calls": 0.0, "irrelevance": 100.0}
    wrong = [(one["seed"], one["wrong"]) for one in found["wrong"]]
    assert wrong == [(seed, "0 calls, not 1") for seed in (0, 1)]


def test_our_own_questions_are_asked_where_bfcls_are_not_installed(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    asked, source = calls.gather(2, CATEGORIES, own=True)
    assert source == "own" and [q.category for q in asked[::2]] == list(CATEGORIES)
    monkeypatch.setattr(bfcl, "data_folder", lambda: folder)
    mixed, source = calls.gather(1, ["simple", "irrelevance"], own=False)
    assert source == "bfcl" and [q.id for q in mixed] == ["simple_python_0", "irrelevance_0"]


def test_the_ways_to_ask() -> None:
    ways = calls.runs([64], ["on", "off"])
    assert list(ways) == ["not thinking", "at most 64 tokens", "thinking"]
    assert ways["at most 64 tokens"] == {"thinking": True, "thinking_budget": 64}


def test_what_a_model_can_not_be_asked_is_wrong_and_the_rest_goes_on(model: Qwen3) -> None:
    question = Question("q", "simple", [SPEED], [Turn("x " * 40_000, [Step([WANTED], [""])])])
    sitting = calls.tried(model, question, {"thinking": False})
    assert "context" in sitting.wrong
