"""Between turns the cache is brought to what the next prompt begins with: no turn pays for more
than its own message, and what it computes is what a cold start computes."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import pytest

from qwen3_mlx import Answer, Done, Thinking, load
from qwen3_mlx.chat.session import ChatSession
from qwen3_mlx.engine import warm as warm_module
from qwen3_mlx.engine.background import BACKGROUND
from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.errors import OptionError
from qwen3_mlx.events import Event
from qwen3_mlx.model import Qwen3
from tests import tiny
from tests.chat.conftest import until
from tests.oracle import assert_close

GREEDY = {"temperature": 0.0, "max_tokens": 40}
MESSAGES = ["What is 7 * 8?", "\n\nand times 3?", "thanks 🎉", "sort 5 2 9 1"]
TOOL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}


@pytest.fixture(scope="module")
def demo() -> Qwen3:
    return load("demo")


@pytest.fixture(scope="module", params=["hybrid", "thinking"])
def model(request: pytest.FixtureRequest) -> Qwen3:
    return Qwen3(tiny.runtime(8, opened=request.param == "thinking", max_position_embeddings=4096))


def new_turn(model: Qwen3, messages: Sequence[dict[str, Any]], **options: Any) -> int:
    """Tokens of the last message with its markup, and of the header of the answer to it."""
    mode = False if options.get("thinking") is False else None
    return len(model.tokenizer.encode(model.template.render(messages[-1:], thinking=mode)))


def assert_as_cold(chat: ChatSession) -> None:
    """The logits behind the next prompt, from this cache and from an empty one."""
    runtime = chat.runtime
    following = [*chat.messages, {"role": "user", "content": "go on"}]
    prompt = runtime.tokenizer.encode(runtime.template.render(following))
    held = len(chat.cache.tokens)
    assert chat.cache.tokens == prompt[:held]
    assert {layer.offset for layer in chat.cache.layers} == {held}
    here = prefill(runtime.network, prompt[held:], chat.cache)
    there = prefill(runtime.network, prompt, PromptCache(runtime.network))
    assert_close(here, there)
    chat.cache.truncate(held)


def stopped_at(kind: type[Event], chat: ChatSession, message: str) -> Done:
    """Run a turn, and stop it at the first event of a kind."""
    turn = chat.send(message)
    for event in turn:
        if isinstance(event, kind):
            turn.interrupt("stop")
        if isinstance(event, Done):
            return event
    raise AssertionError


@pytest.mark.parametrize(
    ("options", "suffix"),
    [
        ({}, ""),
        ({"thinking": True, "thinking_budget": 9, "max_tokens": 90}, ""),
        ({"thinking": False}, ""),
        ({}, " /no_think"),
    ],
    ids=["thinking", "cut", "hard switch", "soft switch"],
)
def test_a_turn_of_the_demo_pays_for_its_message_only(
    demo: Qwen3, options: dict[str, Any], suffix: str
) -> None:
    chat = demo.session(system="Be brief.", seed=1, **options)
    for number, text in enumerate(MESSAGES):
        *_, done = chat.send(text + suffix)
        stats, asked = done.stats, chat.messages[-2:-1]
        if number:
            assert stats.cached_tokens == stats.prompt_tokens - new_turn(demo, asked, **options)
        chat.warm()
        assert_as_cold(chat)
        assert chat.warm() == 0  # nothing is left to do


@pytest.mark.parametrize("budget", [None, 5])
def test_a_turn_of_a_tiny_model_pays_for_its_message_only(model: Qwen3, budget: int | None) -> None:
    """Random output: never closed thoughts, turns that end at max_tokens, broken UTF-8."""
    chat = model.session(temperature=0.0, max_tokens=160, thinking_budget=budget)
    for number, text in enumerate(MESSAGES):
        *_, done = chat.send(text)
        stats = done.stats
        if number:
            assert stats.cached_tokens == stats.prompt_tokens - new_turn(
                model, chat.messages[-2:-1]
            )
        assert chat.warm() > 0
        assert_as_cold(chat)


@pytest.mark.parametrize("kind", [Thinking, Answer])
def test_an_interrupted_turn(demo: Qwen3, kind: type[Event]) -> None:
    chat = demo.session(seed=1)
    assert stopped_at(kind, chat, "What is 17 * 23?").finish_reason == "interrupted"
    chat.warm()
    assert_as_cold(chat)
    *_, done = chat.send("again")
    stats = done.stats
    assert stats.cached_tokens == stats.prompt_tokens - new_turn(demo, chat.messages[-2:-1])


def test_without_it_the_answer_is_paid_for_again(demo: Qwen3) -> None:
    """What the thoughts cost: the reason for all this."""
    chat = demo.session(seed=1)
    list(chat.send(MESSAGES[0]))
    *_, done = chat.send("and now?")
    missed = done.stats.prompt_tokens - done.stats.cached_tokens
    assert missed > new_turn(demo, chat.messages[-2:-1])


def test_a_turn_with_tools_keeps_its_thoughts(model: Qwen3) -> None:
    chat = model.session(**GREEDY)
    chat.messages = [
        {"role": "user", "content": "1 + 1?"},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "Let me add.",
            "tool_calls": [TOOL],
        },
    ]
    chat.warm()
    held = model.tokenizer.decode(chat.cache.tokens)
    assert "Let me add." in held and held.endswith("<|im_end|>\n")
    *_, done = chat.send([{"role": "tool", "content": "2"}])
    assert done.stats.cached_tokens == len(model.tokenizer.encode(held))
    prompt = model.template.render(chat.messages[:3])
    assert model.tokenizer.decode(chat.cache.tokens).startswith(prompt)
    chat.messages[-1] = {"role": "assistant", "content": "It is 2.", "reasoning_content": "So 2."}
    chat.warm()
    held = model.tokenizer.decode(chat.cache.tokens)
    assert "Let me add." not in held and "So 2." not in held and "It is 2." in held
    assert_as_cold(chat)


def test_edit_undo_and_retry_keep_what_they_share(demo: Qwen3) -> None:
    chat = demo.session(thinking=False, **GREEDY)
    for text in MESSAGES[:3]:
        list(chat.send(text))
        chat.warm()
    held = list(chat.cache.tokens)
    *_, done = chat.retry()
    header = len(demo.tokenizer.encode("<think>\n\n</think>\n\n"))  # only the prompt has it
    assert done.stats.cached_tokens == done.stats.prompt_tokens - header
    del chat.messages[-2:]  # undo
    assert chat.warm() == 0
    assert chat.cache.tokens == held[: len(chat.cache.tokens)]
    assert_as_cold(chat)
    chat.messages[2]["content"] = "and times 5?"  # edit
    shared = len(chat.cache.tokens)
    assert 0 < chat.warm() < shared
    assert_as_cold(chat)


def test_it_stops_at_the_context() -> None:
    chat = Qwen3(tiny.runtime(8, max_position_embeddings=64)).session()
    chat.messages = [{"role": "user", "content": "word " * 100}]
    chat.warm()
    assert len(chat.cache.tokens) == 64


def test_in_the_background(demo: Qwen3) -> None:
    chat = demo.session(seed=1)
    for number, text in enumerate(MESSAGES):
        *_, done = chat.send(text)
        stats = done.stats
        if number:
            assert stats.cached_tokens == stats.prompt_tokens - new_turn(demo, chat.messages[-2:-1])
        chat.warm_in_background()
        assert BACKGROUND.wait(10)
        assert_as_cold(chat)


def test_the_next_message_ends_it_at_once(demo: Qwen3, slow: list[int]) -> None:
    chat = demo.session(system="word " * 300, thinking=False, **GREEDY)
    list(chat.send("hello"))
    chat.cache.truncate(0)
    chat.warm_in_background()
    until(slow, 2)
    turn = chat.send("more")
    next(turn)
    ended = len(slow)
    assert sum(slow) < 200  # far from done
    list(turn)
    assert len(slow) == ended  # and it has not gone on
    assert turn.control.stopped is False
    stats = chat.last_stats
    assert stats is not None and stats.cached_tokens == sum(slow)  # what was done is kept
    cold = demo.generate(chat.messages[:-1], thinking=False, **GREEDY)
    assert chat.messages[-1]["content"] == cold.answer


def test_steps_grow_while_they_are_quick_and_shrink_while_not(
    demo: Qwen3, slow: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = list(range(100, 501))
    warm_module.warm(demo.network, ids, PromptCache(demo.network))
    assert slow == [*[warm_module.SHORTEST] * 25, 1]
    slow.clear()
    monkeypatch.setattr(warm_module, "STEP_SECONDS", 10.0)
    warm_module.warm(demo.network, ids, PromptCache(demo.network))
    assert slow == [16, 32, 64, 128, 161]


def test_it_keeps_out_of_a_running_turn(demo: Qwen3) -> None:
    chat = demo.session(seed=1)
    turn = chat.send("What is 17 * 23?")
    next(turn)
    held = list(chat.cache.tokens)
    while len(chat.cache.tokens) < len(held) + 5:
        next(turn)
    held = list(chat.cache.tokens)
    assert chat.warm() == 0
    chat.warm_in_background()
    assert BACKGROUND.wait(10)
    assert chat.cache.tokens == held
    *_, done = turn
    assert isinstance(done, Done) and "391" in chat.messages[-1]["content"]
    assert chat.warm() > 0


def test_a_turn_left_open_is_ended_by_the_next(demo: Qwen3) -> None:
    chat = demo.session(thinking=False, **GREEDY)
    next(chat.send("one"))
    *_, done = chat.send("two")
    assert isinstance(done, Done)
    assert [m["role"] for m in chat.messages] == ["user", "assistant"] * 2


def test_a_turn_that_another_thread_takes_is_not_joined(demo: Qwen3) -> None:
    inside, leave = threading.Event(), threading.Event()

    def progress(_done: int, _total: int) -> None:
        inside.set()
        leave.wait(10)

    chat = demo.session(thinking=False, **GREEDY)
    turn = chat.send("one", on_progress=progress)
    thread = threading.Thread(target=list, args=(turn,))
    thread.start()
    assert inside.wait(10)
    with pytest.raises(OptionError, match="still running"):
        chat.send("two")
    leave.set()
    thread.join()
    assert len(chat.messages) == 2


def test_never_two_at_once(demo: Qwen3, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages sent at odd moments of the background's work; both keep count of who is inside."""
    inside, most = 0, 0
    real = demo.network.model.__class__.__call__

    def counted(self: Any, *arguments: Any) -> mx.array:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.001)
        try:
            return real(self, *arguments)
        finally:
            inside -= 1

    monkeypatch.setattr(demo.network.model.__class__, "__call__", counted)
    chat = demo.session(system="word " * 300, thinking=False, temperature=0.0, max_tokens=3)
    for number in range(12):
        *_, done = chat.send(f"number {number}")
        assert isinstance(done, Done)
        if number % 3 == 0:
            chat.cache.truncate(0)
        chat.warm_in_background()
        time.sleep(0.007 * number)
    BACKGROUND.stop()
    assert most == 1
    chat.warm()
    assert_as_cold(chat)


def test_a_step_has_a_share_of_its_time_to_stay_as_it_is(
    demo: Qwen3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the time or less makes the next one larger, more than all of it smaller."""
    takes = [0.125, 0.25, 0.5, 0.75, 0.75, *[0.125] * 8]
    sizes: list[int] = []
    now = [0.0]

    def timed(network: Any, tokens: Sequence[int], cache: PromptCache) -> None:
        now[0] += takes[len(sizes)]
        sizes.append(len(tokens))
        cache.tokens.extend(tokens)

    monkeypatch.setattr(warm_module, "prefill", timed)
    monkeypatch.setattr(warm_module, "STEP_SECONDS", 0.5)
    monkeypatch.setattr(warm_module.time, "perf_counter", lambda: now[0])
    cache = PromptCache(demo.network)
    warm_module.warm(demo.network, [7] * 10_000, cache, lambda: len(sizes) == len(takes))
    assert sizes == [16, 32, 32, 32, 16, 16, 32, 64, 128, 256, 512, 1024, 1024]


def test_after_an_error_it_begins_anew(demo: Qwen3, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = demo.session(system="word " * 50)
    steps: list[int] = []

    def failing(network: Any, tokens: Sequence[int], cache: PromptCache) -> Any:
        steps.append(len(tokens))
        if len(steps) == 2:
            network.model(mx.array([list(tokens)], mx.uint32), cache.layers)
            raise RuntimeError("half way")
        return prefill(network, tokens, cache)

    with monkeypatch.context() as patch:
        patch.setattr(warm_module, "prefill", failing)
        with pytest.raises(RuntimeError, match="half way"):
            chat.warm()
    assert chat.cache.tokens == []
    chat.warm()
    assert_as_cold(chat)
