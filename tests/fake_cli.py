"""The real command line with a scripted model: ``python -m tests.fake_cli SCRIPT ARGUMENTS``."""

from __future__ import annotations

import sys

from qwen3_mlx.cli import main
from qwen3_mlx.cli.chat import line_chat, load, start
from qwen3_mlx.errors import ContextError
from qwen3_mlx.events import Answer, Thinking
from tests.fakes import FakeModel, Prefill, Turn

SLOW = 0.05

SCRIPTS: dict[str, list[Turn]] = {
    "short": [[Thinking("hm, two"), Answer("It is **4**.")]] * 20,
    "unicode": [[Thinking("想"), Answer("你好 🌍 é")]] * 3,
    "escapes": [[Thinking("a\x1b[2Jb"), Answer("c\x1b]0;owned\x07d\x9b31m")]],
    "endless": [[Answer(f"line {n}\n") for n in range(200_000)]],
    "bug": [[Answer("half"), RuntimeError("boom")]],
    "error": [[ContextError("the prompt is too long", got="9 tokens", hint="shorten it")]],
    "long-thought": [
        [step for n in range(2000) for step in (Thinking(f"thought {n}. "), SLOW)]
        + [Answer("The answer.")],
        [step for n in range(2000) for step in (Answer(f"word{n} "), SLOW)],
        [Answer("Third.")],
    ],
    "prefill": [
        [step for n in range(2000) for step in (Prefill(n, 2000), SLOW)] + [Answer("late")]
    ],
    "slow-prefill": [
        [step for n in range(20) for step in (Prefill(n, 20), SLOW)]
        + [step for n in range(40) for step in (Answer("At last. "), SLOW)]
    ],
    "list": [[Answer(f"- item {n}\n") for n in range(60)] + [Answer("\nthe end\n")]] * 3,
}


if __name__ == "__main__":
    script = sys.argv.pop(1)
    model = FakeModel(SCRIPTS[script])
    load.open_model = lambda *_: model  # type: ignore[assignment, return-value]
    load.load_model = lambda *_: model  # type: ignore[assignment, return-value]
    # it has no network whose kernels could be tried
    start.try_kernels = line_chat.try_kernels = lambda *_, **__: ""
    main()
