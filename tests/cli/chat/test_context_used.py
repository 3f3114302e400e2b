"""How much of the context the next turn begins with, as /tokens and the status row count it."""

from __future__ import annotations

import pytest

from qwen3_mlx.cli.chat import slash_commands
from qwen3_mlx.cli.chat.conversation import Conversation
from qwen3_mlx.cli.tui.status import context_used
from qwen3_mlx.errors import TemplateError
from qwen3_mlx.events import Answer, Done, Stats, Thinking
from qwen3_mlx.hub import resolve
from qwen3_mlx.text.template import ChatTemplate
from qwen3_mlx.text.tokenizer import Tokenizer
from tests.fakes import FakeModel, Turn


def talk(*turns: Turn) -> Conversation:
    """A conversation in the demo's template, with a message for each turn."""
    model = FakeModel(turns)
    folder = resolve.resolve("demo")
    model.template = ChatTemplate.from_dir(folder)  # type: ignore[assignment]
    model.tokenizer = Tokenizer.from_dir(folder)  # type: ignore[assignment]
    chat = Conversation(model, model.session())  # type: ignore[arg-type]
    for number in range(len(turns)):
        list(chat.session.send(f"question {number}"))
    return chat


def test_no_thought_counts_not_even_the_last() -> None:
    long = Thinking("so it is " * 100)
    with_thoughts = talk([long, Answer("yes")], [long, Answer("no")])
    without = talk([Answer("yes")], [Answer("no")])
    assert with_thoughts.prompt_tokens() == without.prompt_tokens()
    said = slash_commands.run(with_thoughts, "/tokens").text
    assert f"the conversation: {without.prompt_tokens():,} tokens of 4,096" in said
    assert without.prompt_tokens() < 50


def test_the_count_is_what_the_next_prompt_begins_with() -> None:
    chat = talk([Thinking("hm"), Answer("yes")])
    ids = chat.model.template.encode(
        [*chat.session.messages, {"role": "user", "content": "and then?"}], chat.model.tokenizer
    )
    own = chat.model.template.encode(
        [{"role": "user", "content": "and then?"}], chat.model.tokenizer
    )
    assert chat.prompt_tokens() == len(ids) - len(own)
    assert talk().prompt_tokens() == 0


def test_a_template_that_fails_costs_the_count_and_not_the_chat(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chat = talk([Answer("yes")])
    chat.recount()
    assert chat.used == chat.prompt_tokens() > 0

    def fail(*_: object, **__: object) -> None:
        raise TemplateError("no such role")

    monkeypatch.setattr(ChatTemplate, "encode", fail)
    chat.recount()
    assert chat.used == 0


@pytest.mark.parametrize("counted", [1, 500])
def test_the_status_row_says_what_tokens_has_said(counted: int) -> None:
    """A turn's own counts know nothing of the marks that the next prompt puts around it."""
    chat = talk([Answer("yes")])
    chat.session.last_stats = None
    chat.count(Done("stop", Stats(prompt_tokens=counted, answer_tokens=1)))
    said = slash_commands.run(chat, "/tokens").text
    assert said.startswith(f"the conversation: {chat.used:,} tokens of 4,096")
    assert context_used(chat, 0).startswith(f"{chat.prompt_tokens()}/4.1k")
