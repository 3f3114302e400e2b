"""What a caller gives in another form than the usual: taken as meant, or refused by name."""

from __future__ import annotations

import enum
import typing
from collections import UserList, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen3_mlx import Agent, load
from qwen3_mlx.chat.session import ChatSession
from qwen3_mlx.errors import OptionError
from qwen3_mlx.model import Qwen3
from qwen3_mlx.options import GenerationOptions
from tests import tiny

SEVERAL = np.array(["stop", "answer"])
HALF = "\ud83d"
ASKED = {"role": "user", "content": "Hello"}
SHORT: dict[str, Any] = {"thinking": False, "max_tokens": 2, "seed": 1}


class Named(str, enum.Enum):  # noqa: UP042 (str() of a StrEnum's is the value)
    DEMO = "demo"


class Place:
    def __init__(self, path: str) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return self.path


@pytest.fixture(scope="module")
def model() -> Qwen3:
    return Qwen3(tiny.runtime(8, max_position_embeddings=8192))


@pytest.mark.parametrize(
    "given",
    [
        {"stop_in": SEVERAL},
        {"tool_choice": SEVERAL},
        {"tool_choice": {"type": SEVERAL}},
        {"tool_choice": {"type": "allowed_tools", "mode": SEVERAL}},
    ],
    ids=["stop_in", "tool_choice", "type", "mode"],
)
def test_an_array_is_none_of_the_words(given: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=r"stop_in|tool_choice"):
        GenerationOptions(**given)


def test_an_array_is_no_way_to_interrupt_and_no_messages(model: Qwen3) -> None:
    with pytest.raises(OptionError, match="interrupt: got array"):
        model.interrupt(SEVERAL)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"messages: got array.*, expected a list"):
        model.generate(SEVERAL)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="messages: got None"):
        model.generate(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("no", ["no", 0, None, np.array([1, 2])], ids=str)
def test_a_switch_is_true_or_false(model: Qwen3, no: Any) -> None:
    asks: dict[str, Callable[[], object]] = {
        "truncate": lambda: model.embed(["a"], truncate=no),
        "return_errors": lambda: model.generate_many(["a"], return_errors=no),
        "continue_last": lambda: model.stream("a", continue_last=no),
        "force": lambda: load("demo", force=no),
    }
    for what, ask in asks.items():
        with pytest.raises(OptionError, match=f"^{what}: got .*expected True or False"):
            ask()


@pytest.mark.parametrize("kind", [tuple, deque, UserList])
def test_any_sequence_of_messages_is_one(model: Qwen3, kind: Callable[[Any], Any]) -> None:
    plain = model.generate([ASKED], **SHORT).answer
    assert model.generate(kind([ASKED]), **SHORT).answer == plain
    assert [one.answer for one in model.generate_many([kind([ASKED])], **SHORT)] == [plain]


def test_a_name_may_be_of_any_class_that_is_one(tmp_path: Path) -> None:
    demo = load(Named.DEMO, draft=None)
    assert (demo.name, repr(demo)) == ("demo", "Qwen3('demo')")
    path = str(demo.runtime.path)
    assert load(Place(path)).name == path  # type: ignore[arg-type]
    session = demo.session("Be brief.")
    for kept in (Place(str(tmp_path / "a.json")), str(tmp_path / "b.json")):
        session.save(kept)  # type: ignore[arg-type]
        assert ChatSession.load(kept, demo).messages == session.messages  # type: ignore[arg-type]


def test_half_a_character_is_said_with_what_has_it(model: Qwen3) -> None:
    with pytest.raises(OptionError, match=r"^text 1: got a lone surrogate at character 2"):
        model.embed(["whole", f"ab{HALF}"])
    with pytest.raises(OptionError, match=r"^instruct: got a lone surrogate"):
        model.embed(["whole"], instruct=HALF)
    with pytest.raises(OptionError, match=r"^stop_text: got a lone surrogate"):
        GenerationOptions(stop_text=HALF)


@pytest.mark.parametrize(
    "messages", [None, "x", {}, [None], [{}], (ASKED,), [{"content": "a"}], SEVERAL], ids=str
)
def test_messages_that_were_edited_into_none_are_said_to_be_none(
    model: Qwen3, tmp_path: Path, messages: Any
) -> None:
    session = model.session("Be brief.", **SHORT)
    session.messages = messages
    uses: list[Callable[[], object]] = [
        lambda: session.system,
        lambda: setattr(session, "system", "Be long."),
        session.clear,
        session.warm,
        session.warm_in_background,
        lambda: session.save(tmp_path / "talk.json"),
        session.retry,
        session.continue_last,
        lambda: session.send("Hello"),
    ]
    for use in uses:
        with pytest.raises(OptionError, match=r"^messages: got .*expected a list of messages"):
            use()
    assert not list(tmp_path.iterdir())
    session.messages = []
    session.system = "Be long."
    assert session.messages == [{"role": "system", "content": "Be long."}]


def test_what_is_printed_says_what_it_is(model: Qwen3) -> None:
    def add(x: int, y: int) -> int:
        return x + y

    assert repr(model.session("Be brief.")) == f"ChatSession({model.name!r}, 1 messages)"
    assert repr(Agent(model, [add])) == f"Agent({model.name!r}, ['add'])"


def test_a_type_checker_sees_replies_where_errors_are_raised() -> None:
    told = [typing.get_type_hints(one) for one in typing.get_overloads(Qwen3.generate_many)]
    found = [str(one["return"]).replace("qwen3_mlx.events.", "") for one in told]
    assert found[0] == "list[Reply]"
    assert "Qwen3Error" in found[1]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("system", "session(system="),
        ("stream", "model.stream"),
        ("max_new_tokens", "max_tokens"),
        ("temprature", "did you mean temperature?"),
        ("budget", "thinking_budget"),
    ],
)
def test_an_option_of_another_library_is_pointed_to_the_one_here(
    model: Qwen3, name: str, hint: str
) -> None:
    for ask in (model.generate, model.stream, model.generate_many, model.session().send):
        with pytest.raises(OptionError, match=r"^unknown option: got") as found:
            ask(["a"] if ask == model.generate_many else "a", **{name: 1})
        assert hint in str(found.value.hint)


def test_a_budget_beyond_the_context_is_not_mended_by_max_tokens() -> None:
    small = load("demo", context=60)
    with pytest.raises(OptionError, match="the context leaves no room for an answer") as found:
        small.generate("What is 17 * 23?", thinking_budget=100)
    assert "max_tokens" not in str(found.value)
    with pytest.raises(OptionError, match="max_tokens leaves no room") as found:
        small.generate("What is 17 * 23?", thinking_budget=10, max_tokens=20)
    assert "raise max_tokens above 34" in str(found.value.hint)
