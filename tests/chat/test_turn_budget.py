"""The budget of a user's turn through the public API, against models that say anything."""

from __future__ import annotations

from typing import Any

import pytest

from qwen3_mlx.events import Reply
from qwen3_mlx.model import Qwen3
from qwen3_mlx.options.thinking_budget import STOP_TEXT
from tests import scripted, tiny

LONG = "Hm, wait. " * 20
BUDGET = 20


@pytest.fixture(scope="module")
def model() -> Qwen3:
    return Qwen3(tiny.runtime(8))


def after(start: str, behind_cut: str) -> scripted.Script:
    """Says `start` and a long thought; behind whatever closes it, `behind_cut`."""

    def following(said: str) -> str:
        whole = start + LONG
        if whole.startswith(said):
            return whole[len(said) :] or "x"
        behind = said.rpartition("</think>\n\n")[2]
        return behind_cut[len(behind) :] if behind_cut.startswith(behind) else ""

    return following


def ask(
    monkeypatch: pytest.MonkeyPatch,
    model: Qwen3,
    script: str | scripted.Script,
    prompt: Any = "Why?",
    **options: Any,
) -> Reply:
    scripted.say(monkeypatch, model, script)
    options = {"thinking_budget": BUDGET, "temperature": 0.0, "max_tokens": 300} | options
    return model.generate(prompt, **options)


@pytest.mark.parametrize(
    ("prompt", "options"),
    [
        ("Why?", {}),
        ("Why?", {"thinking": True}),
        ("Why?", {"thinking": False}),
        ("Why? /no_think", {}),
        ("What does /no_think do?", {}),
        ([{"role": "user", "content": "/no_think hi"}, {"role": "user", "content": "Why?"}], {}),
        ("Why? /no_think", {"thinking": True}),
        ("Why?", {"tools": [{"name": "f"}]}),
    ],
)
def test_whatever_opened_the_thought(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3, prompt: Any, options: dict[str, Any]
) -> None:
    if "tools" in options:
        scripted.say(monkeypatch, model, after("<think>\n", "So."))
        events = model.stream(
            prompt, tools=options["tools"], thinking_budget=BUDGET, max_tokens=300, temperature=0.0
        )
        reply = Reply.from_events(events)
    else:
        reply = ask(monkeypatch, model, after("<think>\n", "So."), prompt, **options)
    assert reply.stats.thinking_tokens == BUDGET
    assert reply.stats.thinking_cut == "budget"
    assert reply.answer == "So."


@pytest.mark.parametrize("options", [{"thinking": False}, {"thinking_budget": 0}])
def test_a_model_that_thinks_all_the_same_is_stopped_at_once(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3, options: dict[str, Any]
) -> None:
    scripted.say(monkeypatch, model, after("<think>\n", "So."))
    reply = model.generate("Why?", max_tokens=300, temperature=0.0, **options)
    assert (reply.thinking, reply.answer) == ("", "So.")
    assert reply.stats.thinking_tokens == 1


def test_no_budget_is_no_limit(monkeypatch: pytest.MonkeyPatch, model: Qwen3) -> None:
    text = f"<think>\n{LONG}\n</think>\n\nSo."
    reply = ask(monkeypatch, model, text, thinking_budget=None)
    assert reply.answer == "So." and reply.stats.thinking_cut == ""


def test_a_second_block_counts_into_the_same_budget(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3
) -> None:
    start = "<think>\nHm.\n</think>\n\n<think>\n"
    reply = ask(monkeypatch, model, after(start, "So."))
    assert reply.stats.thinking_tokens == BUDGET and reply.stats.thinking_cut == "budget"
    assert reply.answer == "So."


@pytest.mark.parametrize("behind", ["<think>\nAgain.", "Hm.\n<think>\nSo.", "<think>" * 30])
def test_behind_the_cut_no_thought_opens(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3, behind: str
) -> None:
    reply = ask(monkeypatch, model, after("<think>\n", behind))
    assert reply.stats.thinking_tokens == BUDGET
    assert reply.thinking.count("Considering") == 1 and "think" not in reply.answer


def test_an_answer_is_never_cut(monkeypatch: pytest.MonkeyPatch, model: Qwen3) -> None:
    """A fine-tune that answers without thinking."""
    for text in (LONG.strip(), "\n\n" + LONG.strip(), f"The tag <tool_call> and {LONG.strip()}"):
        reply = ask(monkeypatch, model, text)
        assert reply.answer == text.lstrip("\n") and reply.stats.thinking_cut == ""
        assert reply.stats.thinking_tokens == 0


def test_a_cut_never_splits_a_character(monkeypatch: pytest.MonkeyPatch, model: Qwen3) -> None:
    thought = "𝕏🦖𒀀" * 12  # no merges for them: each is three or four tokens
    for budget in range(4, 17):
        reply = ask(monkeypatch, model, f"<think>\n{thought}", thinking_budget=budget)
        assert "\ufffd" not in reply.thinking
        assert budget <= reply.stats.thinking_tokens <= budget + 3


THOUGHT = "Let me think about it."
STEPS: dict[str, dict[str, Any]] = {
    "reasoning_content": {"reasoning_content": THOUGHT},
    "reasoning": {"reasoning": THOUGHT},
    "thinking": {"thinking": THOUGHT},
    "in the content": {"content": f"<think>\n{THOUGHT}\n</think>\n\n"},
    "in parts": {"content": [{"type": "text", "text": f"<think>\n{THOUGHT}\n</think>\n\n"}]},
    "cut": {"reasoning_content": f"{THOUGHT}\n{STOP_TEXT.partition('</think>')[0].strip()}"},
}


@pytest.mark.parametrize("spelling", STEPS)
@pytest.mark.parametrize("result", ["tool", "function", "user"])
def test_the_thoughts_of_earlier_steps_are_counted(
    monkeypatch: pytest.MonkeyPatch, model: Qwen3, spelling: str, result: str
) -> None:
    answer = {"role": result, "content": "sunny"}
    if result == "user":
        answer["content"] = "<tool_response>\nsunny\n</tool_response>"
    call = {"name": "f", "arguments": {}}
    step = {"role": "assistant", "content": "", "tool_calls": [{"function": call}]}
    messages = [{"role": "user", "content": "weather?"}, step | STEPS[spelling], answer]
    end = "" if spelling == "cut" else "\n"
    used = len(model.tokenizer.encode(f"<think>\n{THOUGHT}{end}"))
    script = after("<think>\n", "So.")
    left = ask(monkeypatch, model, script, messages, thinking_budget=used + 9)
    assert left.stats.thinking_tokens == 9
    spent = ask(monkeypatch, model, script, messages, thinking_budget=used)
    assert spent.stats.thinking_tokens == 1 and spent.thinking == ""  # closed at once
    fresh = [*messages, {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "?"}]
    assert ask(monkeypatch, model, script, fresh).stats.thinking_tokens == BUDGET
