"""Drafts in turns: the reply is the one without them, and a misfit is refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import qwen3_mlx
import qwen3_mlx.model as model_module
from qwen3_mlx.chat import draft as chat_draft
from qwen3_mlx.chat.draft import Drafts, with_drafts
from qwen3_mlx.chat.runtime import Runtime
from qwen3_mlx.cli.app import app
from qwen3_mlx.cli.terminal.render import drafts
from qwen3_mlx.engine import draft as engine_draft
from qwen3_mlx.engine.payoff import Payoff
from qwen3_mlx.errors import OptionError, Qwen3Error
from qwen3_mlx.events import Reply, Speculation
from qwen3_mlx.model import Qwen3, load
from qwen3_mlx.options import CacheFormat
from tests import tiny

FORMATS = (CacheFormat(), CacheFormat(8), CacheFormat(4), CacheFormat(window=64))


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drafts in every step, whatever they take."""
    monkeypatch.setattr(Payoff, "drafts", 3)


def pair(cache_format: CacheFormat, source: bool) -> tuple[Qwen3, Qwen3]:
    runtime = replace(tiny.runtime(3, head_dim=32), cache_format=cache_format)
    return Qwen3(runtime), Qwen3(
        replace(runtime, drafts=Drafts(runtime, runtime if source else None))
    )


def said(reply: Reply) -> list[Any]:
    stats = reply.stats
    counts = (stats.thinking_tokens, stats.answer_tokens, stats.thinking_cut, stats.cached_tokens)
    texts = (reply.thinking, reply.answer, reply.finish_reason, reply.stopped_by, reply.logprobs)
    return [*texts, *counts]


@pytest.mark.parametrize("source", [False, True], ids=["lookup", "model"])
@pytest.mark.parametrize("cache_format", FORMATS, ids=str)
def test_turns_of_a_session_are_those_without_drafts(
    cache_format: CacheFormat, source: bool
) -> None:
    plain, drafting = (model.session() for model in pair(cache_format, source))
    for options in (
        {"seed": 1, "max_tokens": 130, "thinking_budget": 4, "logprobs": 2},
        {"seed": 2, "max_tokens": 40, "temperature": 0.0, "stop": ["a", "ee"], "thinking": False},
        {"seed": 3, "max_tokens": 40, "presence_penalty": 1.0, "repetition_penalty": 1.2},
    ):
        expected = Reply.from_events(plain.send("ab cde ab cde", **options))
        got = Reply.from_events(drafting.send("ab cde ab cde", **options))
        assert said(got) == said(expected)
        assert drafting.cache.tokens == plain.cache.tokens
        assert expected.stats.speculation is None and got.stats.speculation is not None
    if source:
        assert got.stats.speculation is not None and got.stats.speculation.accepted > 0


def test_an_interrupted_turn_leaves_the_cache_at_what_was_said() -> None:
    _, model = pair(CacheFormat(), True)
    session = model.session()
    generation = session.send("ab cde", seed=1, max_tokens=60)
    for _ in range(5):
        next(generation)
    generation.close()
    length = len(session.cache.tokens)
    assert [layer.offset for layer in session.cache.layers] == [length] * 2


FORMS: tuple[dict[str, Any], ...] = (
    {"regex": "[ab]{20}", "thinking": False},
    {"regex": "(ab|cd)+[a-z]{9}", "thinking_budget": 4},
    {"schema": {"enum": ["abcabcabc", "abcabcdef", "xyz"]}, "thinking_budget": 9, "logprobs": 1},
)


@pytest.mark.parametrize("source", [False, True], ids=["lookup", "model"])
@pytest.mark.parametrize("form", FORMS)
def test_an_answer_in_a_form_has_drafts_too(form: dict[str, Any], source: bool) -> None:
    """Streamed and not, in a session and in `generate`, greedy and seeded."""
    plain, model = pair(CacheFormat(), source)
    accepted = 0
    for more in ({"temperature": 0.0}, {"seed": 1}, {"seed": 2, "temperature": 1.3}):
        options = form | more | {"max_tokens": 120}
        reply, expected = model.generate("ab", **options), plain.generate("ab", **options)
        assert said(reply) == said(expected)
        streamed = Reply.from_events(model.session().send("ab", **options))
        assert said(streamed) == said(expected)
        found = reply.stats.speculation
        assert found is not None and not found.off
        accepted += found.accepted
    assert accepted > 0 or not source


def test_where_rows_cannot_pay_nothing_is_drafted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_draft.FusedStep, "if_available", lambda *_given: object())
    runtime = tiny.runtime(3)
    reason = Drafts(runtime, None).way[1]
    assert reason.startswith("one-token steps are fused here and those of several rows aren't: ")


def other(**changes: Any) -> Runtime:
    runtime = tiny.runtime(4, **changes)
    return replace(runtime, name="other")


def test_another_vocabulary_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = tiny.runtime(3)
    size = runtime.config.vocab_size
    with pytest.raises(
        OptionError, match=f"other can't draft for tiny: got a vocabulary of {size + 8}"
    ):
        Drafts(runtime, other(vocab_size=size + 8))
    source = other()
    monkeypatch.setitem(source.tokenizer._bytes, 7, b"?")
    with pytest.raises(OptionError, match="token 7 is b'\\?', expected"):
        Drafts(runtime, source)
    with pytest.raises(OptionError, match="other"):
        Drafts(runtime, replace(other(), kind="embedder"))


def test_tokenizers_whose_files_differ_are_compared(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Equal files need no comparison, whatever is in memory; one file alone proves nothing."""
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder, text in zip(folders, ("{}", "{}", "[]"), strict=True):
        folder.mkdir()
        (folder / "tokenizer.json").write_text(text)
    first, same, unlike = folders
    target, source = replace(tiny.runtime(3), path=first), other()
    monkeypatch.setitem(source.tokenizer._bytes, 7, b"?")
    Drafts(target, replace(source, path=same))
    for path in (unlike, None, tmp_path / "nowhere"):
        with pytest.raises(OptionError, match="token 7 is"):
            Drafts(target, replace(source, path=path))


def test_another_family_and_no_model_are_refused(tmp_path: Any) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(Exception, match="llama"):
        load("demo", draft=tmp_path)
    assert with_drafts(runtime := tiny.runtime(3), None) is runtime


def test_a_misfit_is_refused_before_the_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A name that means nothing, another vocabulary, an embedder, and other architectures."""
    monkeypatch.setattr(model_module, "load_runtime", lambda *_, **__: pytest.fail("loaded"))
    demo = Path(qwen3_mlx.__file__).parent / "demo" / "config.json"
    config = json.loads(demo.read_text("utf-8"))
    for name, changes in (
        ("wide", {"vocab_size": config["vocab_size"] + 8}),
        ("llama", {"model_type": "llama"}),
        ("Qwen3-Embedding-0.6B", {}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config | changes))
    embedder = tmp_path / "Qwen3-Embedding-0.6B"
    for draft, said in (
        ("0.6x", "unknown model"),
        ("nope", "unknown model"),
        (tmp_path / "none", "no such model directory"),
        (tmp_path / "wide", "can't draft for demo: got a vocabulary of"),
        (tmp_path / "llama", "llama"),
        (embedder, "turns texts into vectors"),
    ):
        with pytest.raises(Qwen3Error, match=said):
            load("demo", draft=draft)
    for draft in ("0.6x", str(embedder)):
        for arguments in (["chat", "--plain"], ["chat", "nope"], ["generate", "demo", "hi"]):
            run = CliRunner().invoke(app, [*arguments, "--draft", draft])
            assert run.exit_code and draft in run.output.replace("\n", ""), run.output


def test_the_command_says_what_drafts_gave() -> None:
    words = ["generate", "demo", "Sort 3, 1, 2", "--seed", "1", "--json", "--draft"]
    replies = []
    for draft in ("lookup", "demo-moe"):
        run = CliRunner().invoke(app, [*words, draft])
        assert run.exit_code == 0, run.output
        replies.append(json.loads(run.stdout.splitlines()[-1]))
    assert replies[0]["answer"] == replies[1]["answer"]
    assert set(replies[1]["speculation"]) == {"rounds", "drafted", "accepted", "gain", "off"}
    assert replies[1]["speculation"]["accepted"] > 0


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (Speculation(), "no drafts"),
        (Speculation(2, 6, 5, 1.5), "5 of 6 drafts right, 1.50 ×"),
        (Speculation(2, 6, 0, 0.8, "slow"), "0 of 6 drafts right, 0.80 ×; drafts off: slow"),
        (Speculation(off="a form"), "drafts off: a form"),
    ],
)
def test_a_turn_s_drafts_in_a_line(given: Speculation, expected: str) -> None:
    assert drafts(given) == expected


def test_drafts_are_checked_by_kernels_that_were_proven_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = with_drafts(tiny.runtime(3), "lookup").drafts
    assert held is not None and held.way[0] is not None
    fused: Any = object()
    monkeypatch.setattr(chat_draft, "way_to_check", lambda *_: (fused, ""))
    assert held.way[0] is not fused
    held.reconsider()
    assert held.way[0] is fused
    made = held.new()
    assert made is not None and made.check is fused
