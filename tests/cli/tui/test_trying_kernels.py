"""The full-screen chat while a model's kernels are tried: it says so, Esc skips, texts wait."""

from __future__ import annotations

import time
from collections.abc import Callable

from qwen3_mlx.events import Answer
from tests.cli.tui.pilot import run_chat
from tests.fakes import FakeModel


def until_skipped(model: object, say: Callable[[str], object], skipped: Callable[[], bool]) -> str:
    say("trying the kernels for fake: Esc skips it")
    end = time.monotonic() + 20
    while not skipped():
        assert time.monotonic() < end
        time.sleep(0.01)
    return "kernels: skipped; the next start tries them again"


async def test_esc_skips_the_trial_and_a_waiting_message_is_sent() -> None:
    model = FakeModel([[Answer("first")]])
    async with run_chat(
        load=lambda _name, _progress: model, model=model, try_kernels=until_skipped
    ) as chat:
        await chat.until("Esc skips it")
        await chat.until(lambda: "trying the kernels" in chat.status)
        await chat.type("one")
        await chat.until("waiting › one")
        await chat.press("escape")
        await chat.until("kernels: skipped")
        await chat.until("first")
        await chat.idle()
        assert "trying" not in chat.status


async def test_how_the_trial_ended_is_said() -> None:
    async with run_chat(try_kernels=lambda *_: "kernels: fused steps run, 1.30 ×") as chat:
        await chat.until("kernels: fused steps run, 1.30 ×")
