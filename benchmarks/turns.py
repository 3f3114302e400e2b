"""Memory over many turns and many sessions: what a process holds after each tenth of them.

    python -m benchmarks.turns [--turns 10000] [--sessions 1000]

The bundled demo takes turns of a few tokens with thinking, cuts, an interrupt and an edit among
them, in one session that is cleared every 20 turns; then sessions of three turns come and go, some
of them dropped in the middle of a turn. After each tenth: resident bytes, bytes that MLX holds and
keeps, Python's objects, threads and open files. It fails if one of them grows from the second
tenth on by more than `ROOM`.
"""

from __future__ import annotations

import argparse
import gc
import resource
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import qwen3_mlx.device.backend

import mlx.core as mx

import qwen3_mlx
from benchmarks.record import write
from qwen3_mlx.chat.session import ChatSession

ROOM = {
    "resident": 8 * 2**20,
    "mlx_active": 0,
    "mlx_kept": 8 * 2**20,
    "objects": 200,
    "threads": 0,
    "files": 0,
}
"""What each may be above the second tenth's: glibc and MLX's pool keep some of what was freed."""


def held() -> dict[str, int]:
    """What this process holds now."""
    gc.collect()
    statm, files = Path("/proc/self/statm"), Path("/dev/fd")
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # on a Mac bytes, and the peak's
    return {
        "resident": int(statm.read_text().split()[1]) * 4096 if statm.exists() else most,
        "mlx_active": mx.get_active_memory(),
        "mlx_kept": mx.get_cache_memory(),
        "objects": len(gc.get_objects()),
        "threads": threading.active_count(),
        "files": len([*files.iterdir()]),
    }


def talk(chat: ChatSession, number: int) -> None:
    """Turn `number`: one of five kinds, by turns."""
    kind = number % 5
    if kind == 3:  # stopped as soon as something has come
        running = chat.send(f"What is {number % 97} + 8?")
        for _ in running:
            running.interrupt("stop")
        return
    if kind == 4:  # the last exchange is taken back
        del chat.messages[-2:]
    question = f"What is {number % 97} + {number % 89}?"
    if kind == 2:
        list(chat.send(question, thinking_budget=2, max_tokens=32))
    else:
        list(chat.send(question))


def many_turns(chat: ChatSession, first: int, count: int) -> None:
    """Turns of one session, which is cleared every 20."""
    for number in range(first, first + count):
        if number % 20 == 0:
            chat.clear()
        talk(chat, number)
    chat.clear()
    chat.cache.clear()


def many_sessions(model: qwen3_mlx.Qwen3, first: int, count: int) -> None:
    """Sessions of three turns, every fourth dropped with a turn under way."""
    for number in range(first, first + count):
        chat = model.session(max_tokens=6, temperature=0.0)
        for turn in range(3):
            talk(chat, 5 * number + turn)
        if number % 4 == 0:
            next(chat.send("What is 1 + 1?"))


def tenths(total: int, run: Callable[[int, int], None]) -> list[dict[str, int]]:
    """What is held after each tenth of `total`."""
    found = []
    for n in range(10):
        run(n * total // 10, total // 10)
        found.append(held())
        print(n + 1, found[-1], flush=True)
    return found


def grown(rows: list[dict[str, int]]) -> list[str]:
    """The names of what has grown from the second tenth to the last by more than its room."""
    return [name for name, room in ROOM.items() if rows[-1][name] > rows[1][name] + room]


def main() -> int:
    """Take the turns and the sessions; 1 if something has grown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--turns", type=int, default=10_000)
    parser.add_argument("--sessions", type=int, default=1_000)
    asked = parser.parse_args()
    model = qwen3_mlx.load("demo")
    chat = model.session(max_tokens=6, temperature=0.0)
    kinds: dict[str, tuple[int, Callable[[int, int], None]]] = {
        "turns": (asked.turns, lambda first, count: many_turns(chat, first, count)),
        "sessions": (asked.sessions, lambda first, count: many_sessions(model, first, count)),
    }
    found = {name: tenths(count, run) for name, (count, run) in kinds.items()}
    bad = {name: grown(rows) for name, rows in found.items()}
    write("turns", {"asked": vars(asked), "tenths": found, "grown": bad})
    print("grown:", bad)
    return int(any(bad.values()))


if __name__ == "__main__":
    sys.exit(main())
