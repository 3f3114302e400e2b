"""The transcript after it was built anew: in order, and the status row counts what is left."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwen3_mlx.cli.chat.conversation import Conversation
from qwen3_mlx.events import Answer, Done, Stats, Thinking
from tests.cli.tui.pilot import ChatPilot, run_chat
from tests.fakes import FakeModel, Turn

TURNS: list[Turn] = [
    [Thinking("hm"), Answer("first")],
    [Thinking("hm"), Answer("second")],
    [Thinking("hm"), Answer("third")],
]
SAID = [
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": "first", "reasoning_content": "hm"},
    {"role": "user", "content": "two"},
    {"role": "assistant", "content": "second", "reasoning_content": "hm hm hm"},
]
WORDS = 4
"""What `SAID` takes of the context, by the scripted model's template."""


async def talk(chat: ChatPilot) -> None:
    for text in ("one", "two"):
        await chat.type(text)
        await chat.idle()


def in_order(chat: ChatPilot, *texts: str) -> None:
    """Each text is on the screen, and the next stands below it."""
    shown = [row.strip() for row in chat.rows[:-1]]
    where = [next((n for n, row in enumerate(shown) if text in row), None) for text in texts]
    assert None not in where and where == sorted(where), "\n".join([f"{where}", *chat.rows])


def resume(chat: Conversation) -> list[str]:
    chat.session.messages = [dict(message) for message in SAID]
    return ["resumed: talk"]


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("/edit three", ("› one", "first", "› three", "third")),
        ("/retry", ("› one", "first", "› two", "third")),
        ("/undo", ("› one", "first", "taken back: two")),
        ("/drop", ("› two", "second", "the oldest 1 of 2")),
        ("/clear", ("forgotten",)),
        ("/tokens", ("› one", "first", "› two", "second", "the conversation: ")),
    ],
)
async def test_what_follows_a_command_stands_below_the_conversation(
    command: str, shown: tuple[str, ...]
) -> None:
    async with run_chat(*TURNS, size=(80, 40)) as chat:
        await talk(chat)
        await chat.type(command)
        await chat.until(shown[-1])
        await chat.idle()
        in_order(chat, *shown)
        await chat.type("last")
        await chat.idle()
        in_order(chat, *shown, "› last")


async def test_a_loaded_conversation_stands_above_what_is_said_of_it(tmp_path: Path) -> None:
    async with run_chat(*TURNS, size=(80, 40)) as chat:
        await talk(chat)
        await chat.type(f"/save {tmp_path / 'talk.json'}")
        await chat.type("/clear")
        await chat.type(f"/load {tmp_path / 'talk.json'}")
        await chat.type("three")
        await chat.until("third")
        in_order(chat, "› one", "first", "› two", "second", "loaded:", "› three", "third")


async def test_what_was_typed_ahead_of_a_resumed_chat_stands_below_it() -> None:
    async with run_chat(
        [Answer("third")], size=(80, 40), prepare=resume, typed_ahead="three\n"
    ) as chat:
        await chat.until("third")
        await chat.idle()
        in_order(chat, "› one", "first", "› two", "second", "resumed:", "› three", "third")


async def test_many_pages_stay_in_order() -> None:
    """More widgets than a page holds, and two commands at once."""
    turns: list[Turn] = [[Thinking("hm"), Answer(f"answer {n}")] for n in range(10)]
    async with run_chat(*turns, size=(80, 100)) as chat:
        for n in range(8):
            await chat.type(f"message {n}")
            await chat.idle()
        await chat.type("/undo")
        await chat.type("/edit another")
        await chat.until("answer 8")
        await chat.idle()
        kept = [text for n in range(6) for text in (f"› message {n}", f"answer {n}")]
        in_order(chat, *kept, "› another", "answer 8")


@pytest.mark.parametrize(
    ("command", "said", "used"),
    [
        ("/undo", "taken back", 2),
        ("/drop", "dropped: the oldest", 2),
        ("/edit", "› one", 2),
        ("/clear", "forgotten", 0),
        ("/system be very brief", "set", WORDS + 3),
        ("/tokens", "the conversation: 4 tokens", WORDS),
    ],
)
async def test_the_status_counts_what_a_command_leaves(command: str, said: str, used: int) -> None:
    async with run_chat(*TURNS, prepare=resume) as chat:
        await chat.until(f"{WORDS}/4.1k")
        await chat.type(command)
        await chat.until(said)
        await chat.until(f" {used}/4.1k")


async def test_the_status_counts_a_resumed_a_loaded_and_a_taken_over_conversation(
    tmp_path: Path,
) -> None:
    models = {
        name: FakeModel([], name=name, context=size) for name, size in (("a", 4096), ("b", 8))
    }
    async with run_chat(
        load=lambda name, _progress: models[name], name="a", prepare=resume
    ) as chat:
        await chat.until(" 4/4.1k (0 %)")
        await chat.type("/model b")
        await chat.until(" 4/8 (50 %)")
        await chat.type(f"/save {tmp_path / 'talk.json'}")
        await chat.type("/clear")
        await chat.until(" 0/8 (0 %)")
        await chat.type(f"/load {tmp_path / 'talk.json'}")
        await chat.until(" 4/8 (50 %)")


async def test_the_status_counts_a_turn_that_failed_and_one_that_is_retried() -> None:
    done = Done("stop", Stats(prompt_tokens=30, answer_tokens=5))
    failing: Turn = [Answer("half of it"), RuntimeError("broken")]
    async with run_chat(failing, [Answer("x"), done], [Answer("y"), done], prepare=resume) as chat:
        await chat.type("three")
        await chat.until("broken")
        await chat.until(f" {WORDS + 1 + 3}/4.1k")
        await chat.type("/retry")
        await chat.until(" 35/4.1k")


async def test_painting_counts_nothing() -> None:
    """A conversation is rendered when a command changes it, and by no row that is drawn."""
    model = FakeModel(TURNS)
    async with run_chat(model=model) as chat:
        await talk(chat)
        rendered: list[object] = []
        template, model.template.encode = model.template.encode, lambda *_, **__: rendered.append(1)
        await chat.press(*"typing")
        chat.app.show_status()
        await chat.type(" a message")
        await chat.idle()
        assert rendered == []
        model.template.encode = template
