"""What would fit instead, and the check before weights are read or fetched."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from qwen3_mlx import load
from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.errors import OutOfMemoryError
from qwen3_mlx.fit import alternatives, chunk_size, inequality
from qwen3_mlx.fit.alternatives import Workload
from qwen3_mlx.fit.machine import Machine, mac
from qwen3_mlx.hub import download, releases
from qwen3_mlx.options import CacheFormat

ROOT = Path(__file__).parents[2]
LIMIT = "QWEN3_MLX_MEMORY_LIMIT"


def wanted(alias: str, context: int = 4096, kv_bits: int | None = None) -> Workload:
    release = releases.find(alias)
    assert release is not None
    config = Qwen3Config.from_dict(release.config())
    return Workload(config, inequality.weights_from_config(config), context, kv_bits)


def unpacked(alias: str, context: int = 4096) -> Workload:
    config = replace(wanted(alias).config, quantization=None)
    return Workload(config, inequality.weights_from_config(config), context)


def test_nothing_ranked_breaks_the_inequality() -> None:
    for alias in ("8b", "32b", "30b", "235b"):
        for size in (8, 16, 24, 64):
            for asked in (wanted(alias, 32_768), unpacked(alias, 8192)):
                for choice in alternatives.ranked(asked, mac(size)):
                    assert choice.fit.fits, (alias, size, choice)


def test_an_eight_bit_cache_comes_first_then_recipes_then_context() -> None:
    hows = [choice.how for choice in alternatives.ranked(unpacked("8b", 16_384), mac(24))]
    assert hows[0].endswith("--recipe 8bit") and hows[1].startswith("--context ")
    hows = [choice.how for choice in alternatives.ranked(unpacked("8b", 40_960), mac(32))]
    assert hows[0] == "--kv-bits 8" and hows[1].endswith("--recipe 8bit")
    hows = [choice.how for choice in alternatives.ranked(wanted("8b", 40_960), mac(16))]
    assert hows[0] == "--kv-bits 8"
    assert [how.split()[0] for how in hows] == ["--kv-bits", "--context", "--kv-bits", "qwen3-mlx"]


def test_the_best_recipe_that_fits_is_named() -> None:
    first = alternatives.ranked(unpacked("32b"), mac(48))[0]
    assert "--recipe 8bit" in first.how
    first = alternatives.ranked(unpacked("32b"), mac(36))[0]
    assert "--recipe 5bit" in first.how
    assert all("recipe" not in c.how for c in alternatives.ranked(wanted("30b"), mac(24)))


def test_what_was_asked_is_not_offered_again() -> None:
    assert "--kv-bits 8" not in [
        c.how for c in alternatives.ranked(wanted("8b", 131_072, 8), mac(16))
    ]
    for bits in (8, 4):  # although it would fit
        hows = [c.how for c in alternatives.ranked(wanted("8b", 4096, bits), mac(64))]
        assert not any(f"--kv-bits {one}" in hows for one in (8, bits))
    # and what fits as it is has no advice but itself
    assert alternatives.smallest_mac(wanted("8b")) == 16
    assert alternatives.smallest_mac(wanted("coder-480b", 262_144)) == 512
    assert alternatives.advice(wanted("coder-480b", 1_000_000), mac(8))[-1].endswith(
        "no single Mac"
    )


def test_a_model_that_does_not_fit_is_refused_before_a_weight_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("qwen3_mlx.chat.runtime.load_network", _never)
    monkeypatch.setenv(LIMIT, "0.01")
    with pytest.raises(OutOfMemoryError) as caught:
        load("demo")
    text = str(caught.value)
    assert "demo does not fit" in text and " > " in text and "does not fit (left of" in text
    assert "what would fit" in text and "QWEN3_MLX_FIT=off" in text


@pytest.mark.parametrize("how", ["force", "variable"])
def test_it_can_be_loaded_all_the_same(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT, "0.01")
    if how == "variable":
        monkeypatch.setenv("QWEN3_MLX_FIT", "off")
    model = load("demo", force=how == "force")
    assert "loaded all the same: " in model.note


def test_what_fits_is_loaded_without_a_word() -> None:
    assert load("demo").note == ""


def test_what_of_the_context_fits_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Machine(10**10, "free")
    monkeypatch.setattr("qwen3_mlx.fit.machine.this_machine", lambda **_: place)
    model = wanted("14b")

    def check(context: int | None, cache_format: CacheFormat = CacheFormat()) -> str:  # noqa: B008 (frozen)
        return alternatives.check(
            "14b", model.config, model.weights, context, cache_format, force=False
        )

    longest = inequality.largest_context(model.config, model.weights, place)
    assert check(None).startswith(f"{longest:,} of 32,768 tokens of context fit in memory (10.0 GB")
    assert check(longest) == ""  # asked for, and it fits
    assert check(None, CacheFormat(window=512)) == ""  # no more than the window is ever held
    with pytest.raises(OutOfMemoryError, match="KV at 32,768 tokens"):
        check(32_768)
    with pytest.raises(OutOfMemoryError, match=f"--context {longest}"):
        check(32_768)


def test_a_context_that_is_asked_for_bounds_the_buffers_that_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = wanted("14b")
    place = Machine(10**12, "free")
    free = inequality.fit(model.config, model.weights, place, 4097)
    asked = inequality.fit(model.config.for_context(4097), model.weights, place, 4097)
    assert asked.kv_bytes < 0.6 * free.kv_bytes  # 4,352 positions, not 8,192
    exactly = Machine(asked.required_bytes, "free")
    monkeypatch.setattr("qwen3_mlx.fit.machine.this_machine", lambda **_: exactly)
    assert alternatives.check("14b", model.config, model.weights, 4097, force=False) == ""
    longest = inequality.largest_context(model.config, model.weights, exactly)
    capped = model.config.for_context(4097)
    assert longest == inequality.largest_context(capped, model.weights, exactly)


def test_nothing_is_downloaded_that_cannot_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = releases.find("30b-a3b")
    assert release is not None

    def describe(_source: Any) -> download.Description:
        tensors = {"w": download.Tensor("U32", (10,), 17_000_000_000)}
        return download.Description("on the hub", release.config(), tensors)

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(download, "describe", describe)
    monkeypatch.setattr(download, "snapshot", _never)
    monkeypatch.setenv(LIMIT, "8")
    with pytest.raises(OutOfMemoryError, match="30b does not fit"):
        load("30b")


@pytest.mark.parametrize("known", [True, False])
def test_headers_count_before_a_download_where_they_are_known(
    known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = releases.find("30b-a3b")
    assert release is not None
    tensors = {"w": download.Tensor("U32", (10,), 123_456)} if known else None
    counted: list[inequality.Weights] = []
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    found = download.Description("on the hub", release.config(), tensors)
    monkeypatch.setattr(download, "describe", lambda _source: found)
    monkeypatch.setattr(
        alternatives, "check", lambda _n, _c, weights, *_, **__: counted.append(weights)
    )
    alternatives.before_download("30b", None, force=False)
    (weights,) = counted
    assert (weights.stored_bytes == 123_456) == known
    assert known or weights.stored_bytes > 10**10


@pytest.mark.parametrize("longest", [511, 512, 513, 4095, 4096])
def test_a_shorter_context_is_offered_from_the_least_on(
    longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inequality, "largest_context", lambda *_: longest)
    offered = [one.how for one in alternatives._shorter(wanted("8b"), mac(64))]
    assert offered == ([f"--context {longest}"] if 512 <= longest < 4096 else [])


def test_memory_taken_while_loading_stops_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from qwen3_mlx.checkpoint import load_network
    from qwen3_mlx.hub.resolve import resolve

    def another_takes_all(_done: int, _total: int) -> None:
        monkeypatch.setenv(LIMIT, "0.000001")

    with pytest.raises(
        OutOfMemoryError, match=r"while loading, 1\.0 MB of 11\.7 MB read"
    ) as caught:
        load_network(resolve("demo"), on_progress=another_takes_all)
    assert "close other programs" in str(caught.value)
    load_network(resolve("demo"), force=True)


def test_the_conversation_survives_memory_running_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load("demo")
    chat = model.session(temperature=0.0, thinking=False, max_tokens=12)
    list(chat.send("What is 3 + 4?"))
    before = [dict(message) for message in chat.messages]
    with monkeypatch.context() as patch:
        patch.setenv(LIMIT, "0.000001")
        with pytest.raises(OutOfMemoryError, match=r"out of memory at \d+ tokens") as caught:
            list(chat.send("What is 5 + 6?"))
        assert "try --kv-bits 8 (" in str(caught.value)
        with pytest.raises(OutOfMemoryError):
            load("demo")
    assert chat.messages[: len(before)] == before
    list(chat.send("What is 5 + 6?"))
    assert chat.messages[-1]["role"] == "assistant"


def test_a_prefill_chunk_that_was_asked_for_is_looked_at_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One too long for the memory is refused with one that is not; shorter ones still work."""
    model = load("demo")
    prompt = "one two three four five six seven " * 60
    limit = (mx.get_active_memory() + 12_000_000) / 1e9
    monkeypatch.setenv(LIMIT, str(limit))
    with pytest.raises(OutOfMemoryError, match=r"out of memory at \d+ tokens") as caught:
        list(model.stream(prompt, max_tokens=2, thinking=False, prefill_chunk=10_000))
    smaller = re.search(r"hint: try prefill_chunk=(\d+), --kv-bits 8", str(caught.value))
    assert smaller is not None
    list(model.stream(prompt, max_tokens=2, thinking=False, prefill_chunk=int(smaller[1])))


def test_a_cache_looks_ahead_before_it_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load("demo")
    chat = model.session(temperature=0.0, thinking=False, max_tokens=40)
    monkeypatch.setattr("qwen3_mlx.nn.cache.full.KVCache.step", 8)
    monkeypatch.setattr("qwen3_mlx.fit.chunk_size.checked", lambda: False)
    steps = iter(chat.send("Sort these words: pear apple fig cherry plum melon date"))
    next(steps)
    monkeypatch.setenv(LIMIT, "0.000001")
    with pytest.raises(OutOfMemoryError, match=r"out of memory at \d+ tokens"):
        list(steps)


def test_the_committed_table_is_what_the_sum_says() -> None:
    page: Callable[[], str] = _script("make_fit").page
    assert (ROOT / "docs" / "fit.md").read_text("utf-8") == page()


def _script(name: str) -> Any:
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _never(*_arguments: object, **_keywords: object) -> None:
    raise AssertionError(json.dumps("reached what must not be reached"))


def test_the_hint_is_made_for_an_error_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the machine is measured once."""
    seen, measure = [], chunk_size.this_machine

    def measured(swap: bool = False) -> Machine:
        seen.append(swap)
        return measure(swap)

    monkeypatch.setattr(chunk_size, "ways_to_free_memory", _never)
    monkeypatch.setattr(chunk_size, "this_machine", measured)
    config = wanted("0.6b").config
    assert chunk_size.chunk_size(config, CacheFormat(), 0, 64) >= chunk_size.SHORTEST
    assert seen == [True]
