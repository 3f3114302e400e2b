"""What a user's program may do, alone or as the first machine of a group; prints a line of JSON.

    python tests/group/program.py [FOLDER]

FOLDER has the models in place of those that are bundled.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from qwen3_mlx import GenerationOptions, Thinking, load


def said(reply: Any) -> list[Any]:
    return [reply.thinking, reply.answer, reply.finish_reason, reply.stats.thinking_cut]


def conversation(model: Any) -> list[Any]:
    """Cut by a budget, cut by the user, stopped, edited, warmed, gone on with."""
    chat = model.session(options=GenerationOptions(seed=3, thinking_budget=20, max_tokens=200))
    events = list(chat.send("What is 17 * 23?"))
    found: list[Any] = [chat.messages[-1]["content"], repr(type(events[-1]).__name__)]
    chat.warm()
    generation = chat.send("Sort 5, 2, 9.")
    for count, event in enumerate(generation):
        if count == 4 and isinstance(event, Thinking):
            generation.interrupt("answer")
    found.append(chat.messages[-1]["content"])
    generation = chat.send("And 4 + 4?")
    for count, _ in enumerate(generation):
        if count == 3:
            generation.interrupt("stop")
    found.append(len(chat.messages))
    list(chat.retry(max_tokens=90))
    found.append(chat.messages[-1]["content"])
    del chat.messages[2:]  # edited, so the cache goes back
    chat.warm_in_background()
    list(chat.send("What is 6 * 7?"))
    return [*found, chat.messages[-1]["content"], chat.cache.tokens[-20:]]


def main() -> None:
    found: dict[str, Any] = {}
    folder = Path(sys.argv[1]) if sys.argv[1:] else None
    for name, settings in (("demo", {}), ("demo-moe", {"kv_bits": 8}), ("demo", {"kv_window": 64})):
        model = load(folder / name if folder else name, **settings)
        key = f"{name} {settings}"
        options = {"seed": 5, "max_tokens": 120, "thinking_budget": 40}
        found[key] = said(model.generate("What is 12 + 30?", **options))
        if not settings:
            found["conversation"] = conversation(model)
            many = ["What is 3 + 4?", "What is 3 + 5?", "Sort 3, 1, 2."]
            replies = model.generate_many(many, parallel=2, **options)
            found["many"] = [said(reply) for reply in replies]
            found["three"] = said(model.generate("Name a colour.", n=2, **options).alternatives[0])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
    sys.exit(0)
