"""The first chat with a model tries its kernels: a line before, a line behind, never in the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qwen3_mlx.checkpoint import try_mapped
from qwen3_mlx.cli.chat.try_kernels import try_kernels
from qwen3_mlx.metal import prove
from qwen3_mlx.metal.verdict import Reading, Verdict
from qwen3_mlx.model import Qwen3
from qwen3_mlx.nn import trial
from tests import tiny

SLOW = "MLX's own are as fast here"


@pytest.fixture(scope="module")
def model() -> Qwen3:
    return Qwen3(tiny.runtime(8))


def attempt(
    model: Qwen3,
    monkeypatch: pytest.MonkeyPatch,
    outcome: Callable[..., Any],
    wanted: bool = True,
) -> tuple[list[str], str]:
    """The lines before, and the line behind."""
    monkeypatch.setattr(trial, "wanted", lambda *_: wanted)
    monkeypatch.setattr(trial, "run", outcome)
    before: list[str] = []
    return before, try_kernels(model, before.append, key="Esc")


def raises(error: BaseException) -> Callable[..., Any]:
    def run(*_: Any, **__: Any) -> Any:
        raise error

    return run


def test_what_is_known_is_not_tried(model: Qwen3, monkeypatch: pytest.MonkeyPatch) -> None:
    assert attempt(model, monkeypatch, raises(AssertionError()), wanted=False) == ([], "")


def test_a_gain_is_said_in_one_line(model: Qwen3, monkeypatch: pytest.MonkeyPatch) -> None:
    won = {"256": Reading({"stock": 10.0, "fused": 13.0}, {"fused": 1.3}, "fused")}
    found = Verdict(right=["matvec"], readings=won)
    before, behind = attempt(model, monkeypatch, lambda *_, **__: (found, None))
    assert len(before) == 1 and "Esc skips it" in before[0] and "once" in before[0]
    assert behind == "kernels: fused steps run, 1.30 × as fast as MLX's own"


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (Verdict(wrong={"step": "hangs"}), "plain operations run: hangs"),
        (
            Verdict(readings={"256": Reading({"stock": 9.0}, {}, "stock")}),
            "plain operations run: MLX's own are as fast here",
        ),
        (
            Verdict(readings={"256": Reading({"stock": 9.0}, {}, "stock", "cut short")}),
            "plain operations run: undecided, cut short",
        ),
        (Verdict(), "plain operations run: MLX's own are as fast here"),
    ],
)
def test_plain_operations_have_a_reason(
    model: Qwen3, monkeypatch: pytest.MonkeyPatch, found: Verdict, said: str
) -> None:
    assert attempt(model, monkeypatch, lambda *_, **__: (found, None))[1] == f"kernels: {said}"


@pytest.mark.parametrize("error", [prove.Skipped(), KeyboardInterrupt()])
def test_skipped_is_tried_again(
    model: Qwen3, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    behind = attempt(model, monkeypatch, raises(error))[1]
    assert behind == "kernels: skipped; the next start tries them again"


def test_a_failure_costs_a_line_and_not_the_chat(
    model: Qwen3, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind = attempt(model, monkeypatch, raises(RuntimeError("no device")))[1]
    assert "plain operations run" in behind and "no device" in behind


def test_a_verdict_that_cannot_be_kept(model: Qwen3, monkeypatch: pytest.MonkeyPatch) -> None:
    behind = attempt(model, monkeypatch, lambda *_, **__: (Verdict(), "Read-only file system"))[1]
    assert behind.endswith("can't be kept: Read-only file system")


def test_mapped_weights_are_tried_at_the_same_time(
    model: Qwen3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where the model has files; and what that throws costs no chat."""
    tried: list[Path] = []

    def prove(directory: Path, again: bool) -> None:
        tried.append(directory)
        raise OSError("no")

    monkeypatch.setattr(try_mapped, "prove", prove)
    assert attempt(model, monkeypatch, lambda *_, **__: (Verdict(), None))[1] and not tried
    filed = Qwen3(replace(model.runtime, path=tmp_path))
    behind = attempt(filed, monkeypatch, lambda *_, **__: (Verdict(), None))[1]
    assert tried == [tmp_path] and behind == "kernels: plain operations run: " + SLOW
