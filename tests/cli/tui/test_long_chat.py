"""The full-screen chat: a long conversation costs no more to draw, and can be read to its start."""

from __future__ import annotations

from typing import Any

from qwen3_mlx.cli.tui.thought import Thought
from qwen3_mlx.cli.tui.transcript import PAGE, Page, Transcript
from qwen3_mlx.events import Answer
from tests.cli.tui.pilot import ChatPilot, run_chat

TURNS = 60
MESSAGES: list[dict[str, Any]] = [
    message
    for n in range(TURNS)
    for message in (
        {"role": "user", "content": f"question {n}?"},
        {"role": "assistant", "content": f"answer {n}, " * 12, "reasoning_content": f"hm {n}"},
    )
]


def parts(log: Transcript) -> int:
    """What Textual lays out for every new line."""
    return sum(1 for page in log.query(Page) for child in page.children if child.display)


async def show(chat: ChatPilot) -> Transcript:
    log = chat.app.log_view
    log.show(MESSAGES, folded=True)
    await chat.until(f"› question {TURNS - 1}?")
    await chat.until(lambda: parts(log) < 5 * PAGE)
    return log


async def test_what_is_laid_out_does_not_grow_with_the_conversation() -> None:
    async with run_chat(*([Answer(f"final {n}")] for n in range(12))) as chat:
        log = await show(chat)
        for number in range(12):
            await chat.type(f"more {number}")
            await chat.idle()
        await chat.until("final 11")
        await chat.until(lambda: parts(log) < 5 * PAGE)
        assert len(log.query(Thought)) == TURNS  # they are all there
        assert len(log.children) >= 3 * TURNS // PAGE


async def test_every_turn_can_be_read_by_paging() -> None:
    async with run_chat() as chat:
        log = await show(chat)
        height, seen = log.virtual_size.height, chat.seen
        while log.scroll_y > 0:
            before = log.scroll_y
            await chat.press("pageup")
            await chat.until(lambda before=before: log.scroll_y < before)
            await chat.pilot.pause()
            seen += chat.seen
        assert [n for n in range(TURNS - 1) if f"› question {n}?" not in seen] == []
        assert [n for n in range(TURNS - 1) if f"answer {n}," not in seen] == []
        assert log.virtual_size.height == height  # asleep or awake, a page is as high
        assert parts(log) < 5 * PAGE


async def test_a_jump_to_the_start_and_a_new_width() -> None:
    async with run_chat() as chat:
        log = await show(chat)
        wide = log.virtual_size.height
        log.scroll_home(animate=False)
        await chat.until("› question 0?")
        await chat.until("answer 0, answer 0")
        await chat.pilot.resize_terminal(44, 24)
        await chat.until("answer 1, answer 1")
        log.follow()
        await chat.until(f"› question {TURNS - 1}?")
        narrow = log.virtual_size.height
        assert narrow > wide
        log.wake()
        await chat.until(lambda: parts(log) == 3 * TURNS)
        await chat.until(lambda: parts(log) < 5 * PAGE)
        assert log.virtual_size.height == narrow  # those asleep had their new height already


async def test_all_thoughts_open_and_fold_wherever_they_are() -> None:
    async with run_chat() as chat:
        log = await show(chat)
        height = log.virtual_size.height
        await chat.press("ctrl+r")
        await chat.until(lambda: log.virtual_size.height == height + TURNS)
        await chat.until(f"│ hm {TURNS - 1}")
        log.scroll_home(animate=False)
        await chat.until("│ hm 0")
        await chat.press("ctrl+r")
        await chat.until(lambda: log.virtual_size.height == height)
