"""Memory that runs out at any moment costs the turn, never the conversation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import mlx.core as mx
import pytest

from qwen3_mlx.chat.session import ChatSession
from qwen3_mlx.engine.background import BACKGROUND
from qwen3_mlx.engine.sample import Sampler
from qwen3_mlx.errors import ContextError, OutOfMemoryError
from qwen3_mlx.model import Qwen3
from qwen3_mlx.options import CacheFormat
from tests import tiny

OPTIONS: dict[str, Any] = {"temperature": 0.0, "max_tokens": 30, "prefill_chunk": 40}
SAID = {
    "cpu": RuntimeError("[malloc_or_wait] Unable to allocate 34359738368 bytes."),
    "metal": RuntimeError(
        "[METAL] Command buffer execution failed: Insufficient Memory "
        "(00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)"
    ),
    "cuda": RuntimeError("cudaMallocAsync(&data, size, stream) failed: out of memory"),
    "python": MemoryError(),
}
# stage -> the call of MLX's in which it happens
STAGES = {"prefill": "eval", "decode": "async_eval", "growth": "concatenate", "copy": "zeros"}
KINDS = [CacheFormat(), CacheFormat(bits=8), CacheFormat(window=64)]


def model(cache_format: CacheFormat) -> Qwen3:
    return Qwen3(
        replace(
            tiny.runtime(8, head_dim=32, max_position_embeddings=2048), cache_format=cache_format
        )
    )


def failing(call: Callable[..., Any], nth: int, error: BaseException) -> Callable[..., Any]:
    """`call`, which raises the n-th time."""
    count = 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count == nth:
            raise error
        return call(*args, **kwargs)

    return counted


def consistent(chat: ChatSession) -> None:
    """Nothing is locked; the next turn says what one from a cold start says."""
    assert not chat.cache.lock.locked()
    assert {layer.offset for layer in chat.cache.layers} == {len(chat.cache.tokens)}
    cold = Qwen3(chat.runtime).session(**OPTIONS)
    cold.messages = [dict(message) for message in chat.messages]
    *got, _ = chat.send("and now?")
    *want, _ = cold.send("and now?")
    assert got == want
    assert chat.messages == cold.messages


@pytest.mark.parametrize("cache_format", KINDS, ids=str)
@pytest.mark.parametrize("nth", [1, 2, 3, 9])
@pytest.mark.parametrize("stage", STAGES)
def test_running_out_of_memory(
    cache_format: CacheFormat, nth: int, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = model(cache_format).session(**OPTIONS)
    list(chat.send("one two three"))
    before = [dict(message) for message in chat.messages]
    error = list(SAID.values())[nth % len(SAID)]
    name = STAGES[stage]
    monkeypatch.setattr(
        "qwen3_mlx.nn.cache.full.KVCache.step", 8
    )  # so that every turn makes it grow
    with monkeypatch.context() as patch:
        patch.setattr(mx, name, failing(getattr(mx, name), nth, error))
        try:
            list(chat.send("four five six " * 12))
        except OutOfMemoryError as caught:
            assert caught.__cause__ is error
            assert "out of memory at" in str(caught) and "hint: try" in str(caught)
            assert chat.cache.tokens == [] and chat.cache.nbytes == 0  # given back
        else:
            assert stage in ("prefill", "copy", "growth") and nth > 3  # fewer calls than that
    assert chat.messages[: len(before)] == before
    assert chat.messages[len(before)]["role"] == "user"
    consistent(chat)


@pytest.mark.parametrize("said", SAID)
def test_every_backend_s_words_are_understood(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = model(CacheFormat()).session(**OPTIONS)
    with monkeypatch.context() as patch:
        patch.setattr(mx, "eval", failing(mx.eval, 2, SAID[said]))
        with pytest.raises(OutOfMemoryError, match=r"at 40 tokens: got .*\n?.*--kv-bits 8"):
            list(chat.send("four five six " * 12))
    consistent(chat)


def test_another_error_is_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = model(CacheFormat()).session(**OPTIONS)
    with monkeypatch.context() as patch:
        patch.setattr(mx, "eval", failing(mx.eval, 1, RuntimeError("[matmul] shapes")))
        with pytest.raises(RuntimeError, match="shapes"):
            list(chat.send("four five six"))
    consistent(chat)


@pytest.mark.parametrize("cache_format", KINDS, ids=str)
def test_in_the_background(cache_format: CacheFormat, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for it, so nobody is told; the next turn begins cold and is right."""
    chat = model(cache_format).session(**OPTIONS)
    list(chat.send("one two three"))
    with monkeypatch.context() as patch:
        patch.setattr(mx, "eval", failing(mx.eval, 1, SAID["cpu"]))
        chat.warm_in_background()
        assert BACKGROUND.wait(60)
    assert chat.cache.tokens == []
    consistent(chat)


@pytest.mark.parametrize("cache_format", KINDS, ids=str)
def test_ctrl_c_in_the_middle_of_a_step(
    cache_format: CacheFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layers hold a token that was never handed out: it is trimmed, no more is lost."""
    chat = model(cache_format).session(**OPTIONS)
    with monkeypatch.context() as patch:
        # raised between a step's forward pass and the note that its token is there
        name = "qwen3_mlx.engine.decode.Sampler.observe"
        patch.setattr(name, failing(Sampler.observe, 4, KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            list(chat.send("one two three"))
    assert len(chat.cache.tokens) > 3
    consistent(chat)


def test_a_prompt_one_token_too_long() -> None:
    """It is refused with its size before anything is computed; one token less is not."""
    talker = Qwen3(tiny.runtime(8, max_position_embeddings=200))
    render, encode = talker.template.render, talker.tokenizer.encode
    empty = len(encode(render([{"role": "user", "content": "x"}]))) - 1
    chat = talker.session(temperature=0.0)
    fits = "x" * (199 - empty)
    assert len(encode(render([{"role": "user", "content": fits}]))) == 199
    with pytest.raises(ContextError) as caught:
        chat.send(fits + "x")
    message = str(caught.value)
    assert "got 200 tokens, expected fewer than 200" in message and "--context" in message
    assert chat.messages == [] and chat.cache.nbytes == 0
    *_, done = chat.send(fits)
    assert done.stats.prompt_tokens == 199 and done.finish_reason == "length"
    assert done.stats.thinking_tokens + done.stats.answer_tokens == 1
    assert {layer.offset for layer in chat.cache.layers} == {200}
