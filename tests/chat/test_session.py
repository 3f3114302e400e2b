"""Turns and conversations on a tiny model: events, budgets, cache reuse, saved files."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwen3_mlx import Answer, Done, GenerationOptions, Reply, Thinking, load
from qwen3_mlx import files as files_module
from qwen3_mlx.chat import journal
from qwen3_mlx.chat.prompt_store import PromptStore
from qwen3_mlx.chat.session import ChatSession
from qwen3_mlx.errors import ContextError, OptionError, OutOfMemoryError, SessionError
from qwen3_mlx.events import Stats
from qwen3_mlx.model import Qwen3
from tests import tiny

SEED = 8  # whose greedy replies are long enough to look at


@pytest.fixture(scope="module")
def model() -> Qwen3:
    return Qwen3(tiny.runtime(SEED))


@pytest.fixture(scope="module")
def thinker() -> Qwen3:
    """Its template opens the thought, so that random output is one."""
    return Qwen3(tiny.runtime(SEED, opened=True))


GREEDY = {"temperature": 0.0, "max_tokens": 40}


def test_stream_ends_in_done_and_generate_joins_it(model: Qwen3) -> None:
    events = list(model.stream("hi", **GREEDY))
    assert isinstance(events[-1], Done) and not any(isinstance(e, Done) for e in events[:-1])
    reply = model.generate("hi", **GREEDY)
    joined = Reply.from_events(iter(events))
    assert (reply.thinking, reply.answer) == (joined.thinking, joined.answer)
    assert reply.finish_reason == "length"
    stats = reply.stats
    assert stats.thinking_tokens + stats.answer_tokens == 40
    assert stats.prompt_tokens > 0 and stats.cached_tokens == 0
    assert stats.ttft == stats.ttft_s > 0 and stats.prefill_tps > 0 and stats.decode_tps > 0


def test_a_budget_cuts_and_is_counted(thinker: Qwen3) -> None:
    reply = thinker.generate("hi", thinking_budget=5, temperature=0.0, max_tokens=200)
    assert reply.stats.thinking_cut == "budget"
    assert reply.stats.thinking_tokens == 5
    stop = len(thinker.tokenizer.encode(GenerationOptions().stop_text))
    assert reply.stats.thinking_tokens + stop + reply.stats.answer_tokens <= 200


def test_budget_zero_is_the_hard_switch(model: Qwen3) -> None:
    off = model.generate("hi", thinking_budget=0, **GREEDY)
    same = model.generate("hi", thinking=False, **GREEDY)
    assert off.answer == same.answer and off.thinking == ""
    assert off.stats.thinking_tokens == 0 and off.stats.prompt_tokens == same.stats.prompt_tokens


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"thinking_budget": 100, "max_tokens": 150}, ["max_tokens 150", "budget of 100"]),
        ({"thinking_budget": -1}, ["thinking_budget", "-1"]),
        ({"temperature": "hot"}, ["temperature", "'hot'"]),
        ({"top_p": 0}, ["top_p"]),
        ({"thinkin": True}, ["unknown option", "'thinkin'"]),
        ({"thinking": True, "thinking_budget": 0}, ["contradicts"]),
    ],
)
def test_impossible_options_are_refused_before_anything_runs(
    model: Qwen3, options: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(OptionError) as error:
        model.stream("hi", **options)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_an_empty_or_too_long_prompt_is_refused(model: Qwen3) -> None:
    with pytest.raises(OptionError, match="empty"):
        model.generate("  \n")
    with pytest.raises(OptionError, match="no messages"):
        model.generate([])
    with pytest.raises(ContextError, match="fewer than 1024") as error:
        model.generate("x" * 2000)
    assert "2" in str(error.value) and error.value.hint


def test_max_tokens_is_bounded_by_the_context(model: Qwen3) -> None:
    reply = model.generate("x" * 960, thinking=False, temperature=0.0)
    assert reply.finish_reason == "length"
    assert reply.stats.prompt_tokens + reply.stats.answer_tokens <= 1024


def test_a_shorter_context_that_is_asked_for_is_a_cap() -> None:
    short = load("demo", context=100)
    assert (short.config.context, short.network.context) == (100, 100)
    reply = short.generate("Count to 100", thinking=False, temperature=0.0, min_tokens=60)
    assert reply.stats.prompt_tokens + reply.stats.answer_tokens <= 100
    assert short.network.make_cache()[0].limit == 100
    with pytest.raises(ContextError, match="fewer than 100, the context of demo"):
        short.generate("Say it again and again. " * 20)
    draft = load("demo", context=100, draft="lookup")
    drafted = draft.generate("Count to 100", thinking=False, temperature=0.0, min_tokens=60)
    assert drafted.answer == reply.answer


def test_the_same_seed_gives_the_same_reply(thinker: Qwen3) -> None:
    replies = [thinker.generate("hi", seed=seed, max_tokens=30).thinking for seed in (1, 1, 2)]
    assert replies[0] == replies[1] != replies[2]
    session = thinker.session(seed=1, max_tokens=30)
    assert Reply.from_events(session.send("hi")).thinking == replies[0]
    assert Reply.from_events(session.retry()).thinking == replies[0]


def test_interrupt_from_another_thread(model: Qwen3) -> None:
    running = model.stream("hi", temperature=0.0)
    next(running)
    thread = threading.Thread(target=model.interrupt, args=("stop",))
    thread.start()
    thread.join()
    *_, done = running
    assert isinstance(done, Done) and done.finish_reason == "interrupted"
    with pytest.raises(OptionError, match="got 'pause', expected 'answer' or 'stop'"):
        running.interrupt("pause")  # type: ignore[arg-type]


def test_a_conversation_reuses_its_cache(model: Qwen3) -> None:
    chat = model.session(system="Be brief.", thinking=False, **GREEDY)
    first = Reply.from_events(chat.send("hello"))
    assert [m["role"] for m in chat.messages] == ["system", "user", "assistant"]
    second = Reply.from_events(chat.send("and?"))
    assert second.stats.cached_tokens >= first.stats.prompt_tokens - 20
    cold = model.generate(chat.messages[:-1], thinking=False, **GREEDY)
    assert second.answer == cold.answer and cold.stats.cached_tokens == 0
    assert chat.last_stats == second.stats


def test_history_is_rendered_without_its_thoughts(thinker: Qwen3) -> None:
    chat = thinker.session(thinking_budget=4, temperature=0.0, max_tokens=160)
    list(chat.send("hello"))
    assert "Considering" in chat.messages[-1]["reasoning_content"]
    request = list(chat.send("again"))
    assert isinstance(request[-1], Done)
    held = thinker.tokenizer.decode(chat.cache.tokens)
    assert held.count("Considering") == 1  # this turn's only


def test_edits_to_the_messages_count(model: Qwen3) -> None:
    chat = model.session(thinking=False, **GREEDY)
    list(chat.send("one"))
    chat.messages[0]["content"] = "two"
    list(chat.retry())
    assert [m["content"] for m in chat.messages if m["role"] == "user"] == ["two"]
    assert chat.messages[1]["content"] == model.generate("two", thinking=False, **GREEDY).answer


def test_a_refused_turn_changes_nothing(model: Qwen3) -> None:
    chat = model.session(thinking=False, **GREEDY)
    list(chat.send("one"))
    before = list(chat.messages)
    for bad in ("x" * 3000, " "):
        with pytest.raises((ContextError, OptionError)):
            chat.send(bad)
    assert chat.messages == before
    with pytest.raises(OptionError, match="nothing to retry"):
        model.session().retry()


def test_an_interrupted_turn_is_kept(model: Qwen3) -> None:
    chat = model.session(thinking=False, temperature=0.0)
    running = chat.send("hello")
    while not isinstance(next(running), Answer):
        pass
    chat.interrupt("stop")
    list(running)
    assert chat.messages[-1]["role"] == "assistant" and chat.messages[-1]["content"]


def test_an_abandoned_turn_is_kept_and_the_cache_stays_usable(model: Qwen3) -> None:
    chat = model.session(thinking=False, **GREEDY)
    running = chat.send("hello")
    while not isinstance(next(running), Answer):
        pass
    running.close()
    assert chat.messages[-1]["role"] == "assistant"
    reply = Reply.from_events(chat.send("more"))
    assert reply.answer == model.generate(chat.messages[:-1], thinking=False, **GREEDY).answer


def test_a_turn_that_fails_half_way_is_kept(model: Qwen3, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = model.session(thinking=False, **GREEDY)

    def failing(*_: object) -> Iterator[tuple[tuple[int, ...], bool]]:
        yield (tuple(model.tokenizer.encode("abc")), True)
        raise MemoryError("device full")

    with monkeypatch.context() as patch:
        patch.setattr("qwen3_mlx.chat.turn.run", failing)
        with pytest.raises(OutOfMemoryError, match="at 26 tokens"):
            list(chat.send("hello"))
    assert chat.messages[-1] == {"role": "assistant", "content": "abc"}
    assert isinstance(list(chat.send("more"))[-1], Done)


def test_system_and_clear(model: Qwen3) -> None:
    chat = model.session()
    chat.system = "A"
    chat.system = "B"
    chat.messages.append({"role": "user", "content": "x"})
    assert chat.system == "B" and len(chat.messages) == 2
    chat.last_stats = Stats()
    chat.clear()
    assert chat.messages == [{"role": "system", "content": "B"}]
    assert chat.last_stats is None  # whose tokens fill the context no more
    chat.system = None
    assert chat.messages == []


def test_save_and_load(model: Qwen3, tmp_path: Path) -> None:
    chat = model.session(system="Be kind. 你好", thinking=False, seed=7, **GREEDY)
    list(chat.send("hello"))
    chat.save(tmp_path / "talk.json")
    again = ChatSession.load(tmp_path / "talk.json", model)
    assert again.messages == chat.messages and again.options == chat.options
    assert [file.name for file in tmp_path.iterdir()] == ["talk.json"]
    assert journal.read(tmp_path / "talk.json").model == "tiny"


def test_a_failed_save_leaves_the_old_file(
    model: Qwen3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = model.session(system="first")
    chat.save(tmp_path / "talk.json")
    before = (tmp_path / "talk.json").read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files_module.os, "fsync", full)
    chat.system = "second"
    with pytest.raises(SessionError, match="No space left on device") as error:
        chat.save(tmp_path / "talk.json")
    assert "still in memory" in str(error.value)
    assert (tmp_path / "talk.json").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["talk.json"]
    with pytest.raises(SessionError):
        chat.save(tmp_path / "nowhere" / "talk.json")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"format": "other"}',
        '{"format": "qwen3-mlx session", "version": 9}',
        '{"format": "qwen3-mlx session", "version": 1, "model": "demo"}',
        '{"format": "qwen3-mlx session", "version": 1, "model": "demo", "messages": [{"role": 1}]}',
        '{"format": "qwen3-mlx session", "version": 1, "model": "demo", "messages": [],'
        ' "options": {"temprature": 1}}',
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "talk.json").write_text(text)
    with pytest.raises(SessionError):
        ChatSession.load(tmp_path / "talk.json")


def test_thinking_and_answer_are_apart(thinker: Qwen3) -> None:
    events = list(thinker.stream("hi", thinking_budget=3, temperature=0.0, max_tokens=160))
    kinds = [type(event) for event in events]
    assert Thinking in kinds
    text = "".join(e.text for e in events if isinstance(e, (Thinking, Answer)))
    assert "</think>" not in text and "<think>" not in text


def test_a_system_prompt_comes_first_whenever_it_is_set(model: Qwen3) -> None:
    chat = model.session(**GREEDY)
    list(chat.send("hi"))
    for text in ("Be brief.", "Be kind."):
        chat.system = text
        assert [m["role"] for m in chat.messages] == ["system", "user", "assistant"]
        assert chat.messages[0]["content"] == chat.system == text


def test_a_retry_ends_the_turn_that_is_open(model: Qwen3) -> None:
    chat = model.session(**GREEDY)
    first = chat.send("hi")
    next(first)
    second = chat.retry()
    assert list(first) == []
    assert isinstance([*second][-1], Done)
    assert [m["role"] for m in chat.messages] == ["user", "assistant"]


def test_a_turn_in_which_nothing_was_said_leaves_no_reply(
    model: Qwen3, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = model.session(**GREEDY)

    def failing(*_: object) -> Iterator[tuple[tuple[int, ...], bool]]:
        raise MemoryError("device full")
        yield

    monkeypatch.setattr("qwen3_mlx.chat.turn.run", failing)
    with pytest.raises(OutOfMemoryError):
        list(chat.send("hello"))
    assert [m["role"] for m in chat.messages] == ["user"]


def test_an_error_between_two_events_leaves_the_cache_free(
    model: Qwen3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C falls anywhere, and its traceback keeps the turn's frames; the next turn must go."""
    chat = model.session(thinking=False, **GREEDY)

    def pressed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("qwen3_mlx.chat.session.AssistantMessage.add", pressed)
        with pytest.raises(KeyboardInterrupt) as caught:
            list(chat.send("hello"))
    assert not chat.cache.lock.locked()
    assert caught.tb and isinstance([*chat.send("more")][-1], Done)


def test_nothing_to_warm_before_anything_is_said(model: Qwen3, tmp_path: Path) -> None:
    chat = model.session()
    assert chat.warm() == 0 and chat.cache.tokens == []
    assert chat.restore_prompt(PromptStore(tmp_path)) == "" and chat.cache.tokens == []


def test_what_is_of_a_wrong_kind_is_an_error_in_words(model: Qwen3) -> None:
    for wrong in ({"thinking": False}, "thinking"):
        for ask in (model.generate, model.stream):
            with pytest.raises(OptionError, match="expected GenerationOptions"):
                ask("hi", wrong)  # type: ignore[operator]  # as a user may
        with pytest.raises(OptionError, match="expected GenerationOptions"):
            model.session(options=wrong)  # type: ignore[arg-type]  # as a user may
    for system in (5, b"Be brief.", ["Be brief."]):
        with pytest.raises(OptionError, match="expected a text, or None"):
            model.session(system=system)  # type: ignore[arg-type]  # as a user may
    chat = model.session()
    with pytest.raises(OptionError, match="interrupt: got 'bogus'"):
        chat.interrupt("bogus")  # type: ignore[arg-type]  # as a user may
    for messages in (None, "hi", {"role": "user"}, [5]):
        chat.messages = messages  # type: ignore[assignment]  # as a user may
        for turn in (lambda: chat.send("hi"), chat.retry, chat.continue_last):
            with pytest.raises(OptionError, match="expected a list of messages"):
                turn()


def test_calls_as_a_reply_has_them_are_messages_of_the_session(model: Qwen3) -> None:
    """A reply's calls are a tuple; `send` took them, and refused the session from then on."""
    session = model.session()
    call = {"type": "function", "function": {"name": "f", "arguments": {}}}
    said = {"role": "assistant", "content": "", "tool_calls": (call,)}
    found = {"role": "tool", "content": "5"}
    for _ in session.send([{"role": "user", "content": "hi"}, said, found], **GREEDY):
        pass
    for _ in session.send("and now?", **GREEDY):
        pass
    assert len(session.messages) == 6
