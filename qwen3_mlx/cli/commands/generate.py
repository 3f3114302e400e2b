"""One prompt, one answer: for pipes and scripts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from qwen3_mlx.cli.chat import load
from qwen3_mlx.cli.settings import settings
from qwen3_mlx.cli.terminal import stdin
from qwen3_mlx.cli.terminal.interrupt import interrupts_turn
from qwen3_mlx.cli.terminal.render import PlainAnswer, Renderer
from qwen3_mlx.cli.terminal.screen import ProgressLine, Screen
from qwen3_mlx.errors import OptionError
from qwen3_mlx.events import Reply
from qwen3_mlx.hub import names
from qwen3_mlx.options import AS_COMPUTED, CacheFormat, GenerationOptions

INTERRUPTED = 130


def arrange(first: str | None, second: str | None, piped: str) -> tuple[str | None, str]:
    """Which argument is the model, and what the prompt is. Raises `OptionError` if it is empty.

    Two arguments are model and prompt. A lone one is the model if it has a model name's form and
    stdin has the prompt; otherwise it is the prompt. stdin joins the prompt, behind an empty line.
    """
    piped = piped.rstrip("\r\n") if piped.strip() else ""
    model, words = first, second
    if first is not None and second is None and not (piped and names.is_model_name(first)):
        model, words = None, first
    prompt = "\n\n".join(part for part in (words, piped) if part)
    if not prompt.strip():
        hint = 'qwen3-mlx generate [MODEL] "What is 17 * 23?", or pipe the prompt in'
        raise OptionError("the prompt is empty", hint=hint)
    if model is None and not piped and words is not None and names.is_model_name(words):
        hint = f'a lone argument is the prompt; say: qwen3-mlx generate {words} "your prompt"'
        raise OptionError("there is a model but no prompt", got=words, hint=hint)
    return model, stdin.argument(prompt)


def run(
    model: str | None,
    prompt: str | None,
    options: GenerationOptions,
    *,
    system: str | None,
    context: int | None,
    hide_thinking: bool,
    as_json: bool,
    defaults: Mapping[str, Any] = MappingProxyType({}),
    cache_format: CacheFormat = AS_COMPUTED,
) -> int:
    """Answer once; returns the exit code. `defaults` hold where `options` say nothing."""
    name, text = arrange(model, prompt, stdin.piped_text())
    screen = Screen()
    name, note = load.choose(name)
    if note and screen.err_is_terminal:
        screen.note(note)
    context = context or load.default_context(name, screen)
    loaded = load.open_model(name, context, screen, cache_format)
    if screen.err_is_terminal and (yarn := load.yarn_note(loaded)):
        screen.note(yarn)
    options = settings.apply_defaults(options, defaults, loaded.family)
    messages = [{"role": "user", "content": text}]
    if system:
        messages.insert(0, {"role": "system", "content": stdin.argument(system)})
    progress = ProgressLine(screen, "reading the prompt")
    turn = loaded.stream(messages, options, on_progress=progress)
    with interrupts_turn(turn, answer_first=False) as presses:
        if as_json:
            reply = Reply.from_events(turn)
            progress.clear()
            screen.answer(f"{json.dumps(record(name, reply))}\n")
        else:
            renderer = Renderer(screen, PlainAnswer(screen), hide_thinking=hide_thinking)
            renderer.paint(progress.cleared_by(turn))
    return INTERRUPTED if presses.count else 0


def record(name: str, reply: Reply) -> dict[str, Any]:
    """What ``--json`` prints."""
    stats = reply.stats
    found: dict[str, Any] = {
        "model": name,
        "thinking": reply.thinking,
        "answer": reply.answer,
        "finish_reason": reply.finish_reason,
        "thinking_cut": stats.thinking_cut,
        "usage": {
            "prompt_tokens": stats.prompt_tokens,
            "cached_tokens": stats.cached_tokens,
            "thinking_tokens": stats.thinking_tokens,
            "answer_tokens": stats.answer_tokens,
        },
        "timings": {
            "ttft_s": stats.ttft_s,
            "prefill_tps": stats.prefill_tps,
            "decode_tps": stats.decode_tps,
        },
        "peak_memory_bytes": stats.peak_memory_bytes,
    }
    if reply.tool_calls:
        calls = [{"name": call.name, "arguments": call.arguments} for call in reply.tool_calls]
        found["tool_calls"] = calls
    return found
