"""Ten steps of the tool loop with thinking off: the tokens of all forward passes, counted."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

import qwen3_mlx
from benchmarks.tool_steps import Passes
from qwen3_mlx.events import Done
from qwen3_mlx.model import Qwen3
from qwen3_mlx.text import ChatTemplate
from qwen3_mlx.tools.consent import Consent
from qwen3_mlx.tools.loop import ToolLoop
from tests.cli import tools_given
from tests.tools.test_loop import a_tool, call_text, say_in_turn

STEPS = 10
EMPTY_THOUGHT = "<think>\n\n</think>\n\n"


@pytest.fixture(params=["the demo's template", "Qwen3's own"])
def model(request: pytest.FixtureRequest) -> Qwen3:
    demo = Path(qwen3_mlx.__file__).parent / "demo"
    own = request.param == "Qwen3's own"
    template = ChatTemplate.from_dir(request.getfixturevalue("qwen3_files") if own else demo)
    return Qwen3(replace(tools_given.model().runtime, template=template))


def turn(model: Qwen3) -> tuple[int, list[list[int]], list[list[int]]]:
    """The tokens computed in a turn of ten steps; each step's prompt, and the cache behind it."""
    loop = ToolLoop(
        model.session(temperature=0.0, max_tokens=120, thinking=False),
        [a_tool()],
        Consent(None, ["f"]),
    )
    prompts, caches, passes = list[list[int]](), list[list[int]](), Passes()
    with passes.noted(model):
        for event in loop.send("Go."):
            if isinstance(event, Done):
                caches.append([*loop.session.cache.tokens])
                prompts.append(caches[-1][: event.stats.prompt_tokens])
    assert len(prompts) == STEPS
    return passes.tokens, prompts, caches


def common(one: list[int], other: list[int]) -> int:
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return sum(1 for _ in same)


def test_without_thinking_only_what_the_template_moves_is_computed_twice(
    model: Qwen3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt ends in an empty thought, which the next one leaves out of that step.

    What the step said stands elsewhere then, behind other tokens: it must be computed anew, and
    nothing else is.
    """
    say_in_turn(monkeypatch, model, [*(call_text(n=n) for n in range(STEPS - 1)), "Done."])
    computed, prompts, caches = turn(model)
    empty = model.tokenizer.encode(EMPTY_THOUGHT)
    moved = 0
    for cache, before, after in zip(caches, prompts, prompts[1:], strict=False):
        assert before[-len(empty) :] == empty
        kept = len(before) - len(empty)
        assert common(cache, after) == kept
        said = cache[len(before) :]
        assert after[kept : kept + len(said)] == said
        moved += len(empty) + len(said)
    assert computed == len(caches[-1]) + moved
