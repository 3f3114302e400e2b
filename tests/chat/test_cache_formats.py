"""Conversations whose keys and values are packed, or seen through a window: the same promises."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qwen3_mlx import Done, load
from qwen3_mlx.chat.prompt_store import PromptStore, model_key
from qwen3_mlx.chat.session import ChatSession
from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.errors import OptionError
from qwen3_mlx.metal import launch
from qwen3_mlx.model import Qwen3
from qwen3_mlx.nn.cache import windowed as rotating_cache
from qwen3_mlx.nn.cache.full import KVCache
from qwen3_mlx.nn.fused_step import FusedStep, unavailable_reason
from qwen3_mlx.options import CacheFormat
from tests import tiny
from tests.oracle import assert_close, nmse

KINDS: dict[str, CacheFormat] = {
    "computed": CacheFormat(),
    "8 bits": CacheFormat(bits=8),
    "4 bits": CacheFormat(bits=4),
    "window": CacheFormat(window=96, sinks=2),
}
# Chunks cut elsewhere change float32's last bit, and a number on the edge between two packed steps
# then falls to the other side: rare, but a step of 1/255 or 1/15 of its group's range.
BOUNDS: dict[int | None, float] = {8: 1e-6, 4: 1e-3}
MESSAGES = ["What is 7 * 8?", "\n\nand times 3?", "thanks", "sort 5 2 9 1"]


@pytest.fixture(params=KINDS)
def cache_format(request: pytest.FixtureRequest) -> CacheFormat:
    return KINDS[request.param]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a short test fills many, and a window drops rows in every turn."""
    monkeypatch.setattr(KVCache, "step", 16)
    monkeypatch.setattr(rotating_cache, "MARGIN", 16)


def model(cache_format: CacheFormat, opened: bool = False) -> Qwen3:
    runtime = tiny.runtime(8, opened=opened, head_dim=32, max_position_embeddings=4096)
    return Qwen3(replace(runtime, cache_format=cache_format))


def assert_near(here: Any, prompt: list[int], runtime: Any) -> None:
    """These logits are those of `prompt` read at once, within what other chunks of it change."""
    network, bits = runtime.network, runtime.cache_format.bits
    there = prefill(network, prompt, runtime.new_cache())
    bound = BOUNDS.get(bits)
    if bound is not None:  # some processors' BLAS changes more than others': 1.6e-6 of the demo
        chunked = (prefill(network, prompt, runtime.new_cache(), chunk=n) for n in (16, 32))
        bound = max(bound, *(4 * nmse(other, there) for other in chunked))
        assert bound < 10 * BOUNDS[4], "or the chunks themselves are read wrongly"
    assert_close(here, there, bound=bound)


def next_prompt(chat: ChatSession) -> list[int]:
    following = [*chat.messages, {"role": "user", "content": "go on"}]
    return chat.runtime.tokenizer.encode(chat.runtime.template.render(following))


def as_cold(chat: ChatSession) -> None:
    """The logits behind the next prompt, from this cache and from an empty one."""
    prompt, held = next_prompt(chat), len(chat.cache.tokens)
    assert chat.cache.tokens == prompt[:held]
    here = prefill(chat.runtime.network, prompt[held:], chat.cache)
    assert_near(here, prompt, chat.runtime)
    assert chat.cache.truncate(held) == held


def new_turn(model: Qwen3, chat: ChatSession) -> int:
    asked = chat.messages[-2:-1]
    return len(model.tokenizer.encode(model.template.render(asked)))


@pytest.mark.parametrize("opened", [False, True], ids=["hybrid", "thinking"])
def test_a_turn_pays_for_its_own_message_only(
    cache_format: CacheFormat, opened: bool, small_blocks: None
) -> None:
    talker = model(cache_format, opened)
    chat = talker.session(temperature=0.0, max_tokens=150)
    for number, text in enumerate(MESSAGES):
        *_, done = chat.send(text)
        if number:
            wanted = done.stats.prompt_tokens - new_turn(talker, chat)
            assert done.stats.cached_tokens == wanted
        chat.warm()
        as_cold(chat)


def test_without_the_background_a_turn_pays_for_the_last_answer_too(
    cache_format: CacheFormat, small_blocks: None
) -> None:
    """Thoughts of 150 tokens leave a window of 96: the mark at the prompt's end is returned to."""
    talker = model(cache_format, opened=True)
    chat = talker.session(temperature=0.0, max_tokens=150)
    before = 0
    for text in MESSAGES:
        *_, done = chat.send(text)
        # the thought's opening, two tokens, is in no later prompt
        assert done.stats.cached_tokens >= before - 3
        before = done.stats.prompt_tokens


def test_stats_say_what_the_cache_takes(cache_format: CacheFormat) -> None:
    chat = model(cache_format).session(temperature=0.0, max_tokens=20)
    *_, done = chat.send("hi")
    assert isinstance(done, Done)
    assert done.stats.kv_bytes == chat.cache.nbytes > 0
    said = {"computed": "as computed", "8 bits": "8 bits", "4 bits": "4 bits"}
    name = next(name for name, value in KINDS.items() if value == cache_format)
    assert done.stats.kv_kind == said.get(name, "the last 96 tokens and the first 2")


@pytest.fixture(scope="module")
def demo() -> Qwen3:
    return load("demo")


def test_a_prompt_is_kept_on_disk_and_found_again(
    cache_format: CacheFormat, demo: Qwen3, tmp_path: Path
) -> None:
    runtime, store = replace(demo.runtime, cache_format=cache_format), PromptStore(tmp_path)
    talker = Qwen3(runtime)
    system = "The meeting is on Monday at nine. " * 8
    chat = talker.session(system=system)
    assert chat.restore_prompt(store) == ""
    chat.warm()
    again = talker.session(system=system)
    assert again.restore_prompt(store) == ""
    assert again.cache.tokens == chat.cache.tokens
    assert {type(layer) for layer in again.cache.layers} == {
        type(layer) for layer in chat.cache.layers
    }
    tokens = again.cache.tokens
    prompt = [*tokens, 100, 101, 102]
    here = prefill(demo.network, prompt[len(tokens) :], again.cache)
    assert_near(here, prompt, runtime)


def test_another_kind_does_not_find_it(demo: Qwen3, tmp_path: Path) -> None:
    keys = {model_key(replace(demo.runtime, cache_format=kind)) for kind in KINDS.values()}
    assert len(keys) == len(KINDS)
    store, system = PromptStore(tmp_path), "The meeting is on Monday at nine. " * 8
    chat = demo.session(system=system)
    chat.restore_prompt(store)
    chat.warm()
    packed = Qwen3(replace(demo.runtime, cache_format=CacheFormat(bits=8))).session(system=system)
    packed.restore_prompt(store)
    assert packed.cache.tokens == []


def test_load_takes_the_kind_and_refuses_what_it_cannot(demo: Qwen3) -> None:
    packed = load("demo", kv_bits=8)
    assert packed.session().cache.kind == "8 bits"
    assert (
        packed.generate("What is 7 * 8?", thinking=False, temperature=0.0).answer == "7 * 8 = 56."
    )
    windowed = load("demo", kv_window=128, kv_sinks=2)
    assert windowed.session().cache.kind == "the last 128 tokens and the first 2"
    for bad in ({"kv_bits": 3}, {"kv_window": 5}, {"kv_bits": 8, "kv_window": 128}):
        with pytest.raises(OptionError):
            load("demo", **bad)


def test_the_fused_step_leaves_windows_to_the_plain_path(monkeypatch: Any) -> None:
    """Its kernel reads all keys and values, packed or not; the reason is said."""
    monkeypatch.setattr(launch, "executor", lambda _launch: [])
    monkeypatch.delenv("QWEN3_MLX_KERNELS", raising=False)
    net, _ = tiny.network(1, head_dim=32)
    monkeypatch.setattr(
        "qwen3_mlx.metal.dispatch.unavailable_reason", lambda *_names, **_given: None
    )
    assert unavailable_reason(net) is None
    for kind in KINDS.values():
        step, window = FusedStep.if_available(net, kind), kind.window is not None
        assert (step is None) == window == ("window" in str(unavailable_reason(net, kind)))
        if step is not None:
            assert {layer.kind for layer in step.make_cache()} == {
                layer.kind for layer in net.make_cache(kind)
            }


def test_an_interrupted_prefill_keeps_what_is_done(cache_format: CacheFormat) -> None:
    """The next attempt computes the rest only, and says what one that was never stopped says."""
    talker, text = model(cache_format), "one two three four five six seven eight " * 8
    chat = talker.session(temperature=0.0, max_tokens=12, prefill_chunk=50)
    seen: list[int] = []

    def stop_soon(done: int, _total: int) -> None:
        seen.append(done)
        if len(seen) == 2:
            chat.interrupt("stop")

    *_, done = chat.send(text, on_progress=stop_soon)
    assert done.finish_reason == "interrupted" and seen == [50, 100]
    assert len(chat.cache.tokens) == 100
    *events, done = chat.retry()
    assert done.stats.cached_tokens == 100
    *wanted, _ = talker.session(temperature=0.0, max_tokens=12).send(text)
    assert events == wanted
