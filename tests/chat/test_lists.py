"""Lists that a caller gives: any iterable is one, one item is refused, and all can be ended."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from qwen3_mlx import Agent
from qwen3_mlx.chat.turns import TurnList
from qwen3_mlx.errors import ContextError, OptionError
from qwen3_mlx.events import Reply
from qwen3_mlx.model import Qwen3, load
from tests import tiny
from tests.chat.schedules import same, turn

PROMPTS = ["ab", "cd", "ef"]
OPTIONS: dict[str, Any] = {"max_tokens": 8, "seed": 7, "thinking": False}
MAKE: list[Callable[[list[str]], Any]] = [
    *(list, tuple, iter, np.array, lambda texts: (text for text in texts)),
    *(lambda texts: dict.fromkeys(texts).keys(), lambda texts: map(str, texts)),
]


@pytest.fixture(scope="module")
def model() -> Qwen3:
    return Qwen3(tiny.runtime(3))


@pytest.mark.parametrize("make", MAKE)
def test_prompts_may_be_of_any_iterable(model: Qwen3, make: Callable[..., Any]) -> None:
    seen: list[tuple[int, int]] = []
    replies = model.generate_many(make(PROMPTS), on_progress=lambda *at: seen.append(at), **OPTIONS)
    assert seen == [(n, 3) for n in (1, 2, 3)]
    for prompt, reply in zip(PROMPTS, replies, strict=True):
        assert isinstance(reply, Reply) and same(reply, model.generate(prompt, **OPTIONS))


@pytest.mark.parametrize("one", ["Sort 5, 2", b"Sort", {"role": "user"}, 7, None, np.array("ab")])
def test_one_prompt_in_place_of_many_is_refused(model: Qwen3, one: Any) -> None:
    for ask in (model.generate_many, model.embed):
        with pytest.raises(OptionError, match=r"(prompts|texts): got .*, expected a list of them"):
            ask(one)


def test_the_hint_names_what_was_given(model: Qwen3) -> None:
    with pytest.raises(OptionError, match=r"\[allow\] is a list of one"):  # it said [allo]
        Agent(model, allow="files.*")


def test_one_message_in_place_of_a_conversation_is_refused(model: Qwen3) -> None:
    (error,) = model.generate_many([{"role": "user", "content": "a"}], return_errors=True)  # type: ignore[list-item]
    assert isinstance(error, OptionError) and "put it in a list" in str(error)


def test_an_error_that_is_raised_names_its_prompt(model: Qwen3) -> None:
    done: list[int] = []
    wrong: list[Any] = [{"role": "user", "content": 5}]
    for bad, said in (("  ", "the prompt is empty"), (wrong, r"messages\[0\].content: got int 5")):
        prompts = ["ab", bad, "ef", ""]
        with pytest.raises(OptionError, match=rf"^prompts\[1\]: {said}") as found:
            model.generate_many(prompts, on_progress=lambda n, _: done.append(n), **OPTIONS)
        assert repr(found.value).count("prompts[1]") == 1
    with pytest.raises(ContextError, match=r"^prompts\[1\]: the prompt is too long"):
        model.generate_many(["ab", "ab " * 10_000], **OPTIONS)
    errors = model.generate_many(["", "ab"], return_errors=True, **OPTIONS)
    assert str(errors[0]).startswith("the prompt is empty"), "its place says which it is"
    assert len(done) == 4


def test_texts_may_be_of_any_iterable(model: Qwen3) -> None:
    want = model.embed(PROMPTS).tolist()
    for make in MAKE:
        assert model.embed(make(PROMPTS)).tolist() == want


def test_an_interrupt_from_another_thread_ends_the_list(model: Qwen3) -> None:
    def stop(done: int, total: int) -> None:
        thread = threading.Thread(target=model.interrupt)
        thread.start()
        thread.join()

    lengths = {"max_tokens": 300, "min_tokens": 300}
    replies = model.generate_many(PROMPTS * 3, parallel=2, on_progress=stop, **OPTIONS | lengths)
    ended = [(one.finish_reason, one.answer) for one in replies if isinstance(one, Reply)]
    assert ended[0][0] == "length" and ended[2:] == [("interrupted", "")] * 7


def test_a_list_that_is_over_leaves_what_ran_before_to_be_ended(model: Qwen3) -> None:
    stream = model.stream("ab", **(OPTIONS | {"max_tokens": 300, "min_tokens": 200}))
    next(stream)
    model.generate_many(PROMPTS, **OPTIONS)
    model.interrupt()
    assert Reply.from_events(stream).finish_reason == "interrupted"


def test_an_answer_now_ends_the_thoughts_that_run_and_no_later_one(model: Qwen3) -> None:
    turns = TurnList()
    one, other = turn(model, "ab"), turn(model, "cd")
    turns.add(one)
    turns.add(other)
    one.task.sequence.thinking_tokens = 1
    turns.interrupt("answer")
    assert (one.control.wish, other.control.wish) == ("answer", None)
    turns.interrupt()
    turns.add(late := turn(model, "ef"))
    assert {turn.control.wish for turn in (one, other, late)} == {"stop"}
    with pytest.raises(ValueError, match="got 'halt'"):
        turns.interrupt("halt")  # type: ignore[arg-type]


def test_a_list_takes_the_options_that_one_prompt_takes(model: Qwen3) -> None:
    with pytest.raises(OptionError, match="GenerationOptions"):
        model.generate_many(["a"], {"max_tokens": 3})  # type: ignore[arg-type]
    (reply,) = model.generate_many(["a"], parallel=np.int64(2), max_tokens=1)  # type: ignore[arg-type]
    assert isinstance(reply, Reply) and reply.stats.answer_tokens <= 1


def test_lists_of_several_threads_leave_nothing_behind(model: Qwen3) -> None:
    """The first ends while the second runs; its turns' caches were held until the next turn."""
    first, second = threading.Event(), threading.Event()

    def begun(_done: int, _total: int) -> None:
        first.set()
        second.wait(30)

    one = threading.Thread(target=lambda: model.generate_many(["a"], on_progress=begun, **OPTIONS))
    one.start()
    assert first.wait(30)
    ended = threading.Event()

    def go_on(_done: int, _total: int) -> None:
        second.set()
        one.join(30)
        ended.set()

    model.generate_many(["b"], on_progress=go_on, **OPTIONS)
    assert ended.is_set() and model._running is None


@pytest.mark.parametrize("given", [3, "bar", [print]])
def test_what_can_not_be_told_of_progress_is_refused_before_anything_is_computed(
    model: Qwen3, given: Any
) -> None:
    """It was a TypeError that named nothing, in the midst of the work."""
    for ask in (
        lambda: model.generate("ab", on_progress=given),
        lambda: model.stream("ab", on_progress=given),
        lambda: model.generate_many(PROMPTS, on_progress=given),
        lambda: model.session().send("ab", on_progress=given),
        lambda: model.embed(PROMPTS, on_progress=given),
        lambda: model.rerank("ab", PROMPTS, on_progress=given),
        lambda: load("demo", on_progress=given),
        lambda: load("no/such-model", on_progress=given),
    ):
        with pytest.raises(OptionError, match=r"^on_progress: got .*, expected a function of two"):
            ask()
