"""A loaded model: `load` it, then `Qwen3.generate`, `Qwen3.stream` or `Qwen3.session`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qwen3_mlx.chat.session import ChatSession
from qwen3_mlx.chat.turn import Generation, Message, Runtime, prepare, start
from qwen3_mlx.checkpoint.fingerprint import stamp
from qwen3_mlx.checkpoint.load import load_network
from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.device import backend
from qwen3_mlx.engine.budget import Interrupt
from qwen3_mlx.engine.prefill import Progress
from qwen3_mlx.errors import ConfigError, OptionError
from qwen3_mlx.events import Reply
from qwen3_mlx.fit import alternatives, guard
from qwen3_mlx.hub.names import resolve
from qwen3_mlx.nn.transformer import Qwen3 as Network
from qwen3_mlx.options import Family, GenerationOptions, KeyValues
from qwen3_mlx.text import ChatTemplate, Tokenizer


def load(
    name: str | Path = "demo",
    *,
    context: int | None = None,
    kv_bits: int | None = None,
    kv_window: int | None = None,
    kv_sinks: int = 4,
    on_progress: Callable[[int, int], None] | None = None,
    force: bool = False,
) -> Qwen3:
    """Load a model by name: ``"demo"``, an alias such as ``"8b"``, a directory, or a hub repo id.

    `context` asks for that many positions; beyond the model's own, YaRN is switched on.
    `kv_bits` (8 or 4) packs keys and values; `kv_window` sees only the last so many tokens and
    the first `kv_sinks`. `on_progress` is called with bytes loaded and bytes in all. What does
    not fit in memory is refused before a weight is read, unless `force`; what of the context does
    not fit is said in `Qwen3.note`. Raises `ModelNotFoundError`, `HubError`, `ConfigError`,
    `CheckpointError`, `ContextError`, `OptionError` or `OutOfMemoryError`.
    """
    backend.used_here()
    kept = KeyValues(kv_bits, kv_window, kv_sinks)
    alternatives.before_download(str(name), context, kept, force=force)
    path = resolve(str(name))
    # First: another architecture's other files may look odd in any way.
    config = Qwen3Config.from_dir(path)
    kept.check(config.head_dim)
    weights = alternatives.of_directory(path)
    note = alternatives.check(str(name), config, weights, context, kept, force=force)
    guard.apply()
    files = stamp(path)
    tokenizer, template = Tokenizer.from_dir(path), ChatTemplate.from_dir(path)
    network, config = load_network(path, context=context, on_progress=on_progress, force=force)
    said = _generation_config(path)
    runtime = Runtime(str(name), network, config, tokenizer, template, said, path, files, kept)
    return Qwen3(runtime, note)


def _generation_config(path: Path) -> Mapping[str, Any]:
    file = path / "generation_config.json"
    if not file.exists():
        return {}
    try:
        values = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} can't be read", got=str(error), expected="JSON") from None
    return values if isinstance(values, dict) else {}


class Qwen3:
    """A Qwen3 ready to talk. Not for concurrent use: one turn at a time."""

    def __init__(self, runtime: Runtime, note: str = "") -> None:
        self.runtime = runtime
        self.note = note
        """What its user should know of how it was loaded; mostly nothing."""
        self._running: Generation | None = None

    @property
    def name(self) -> str:
        """The name it was loaded by."""
        return self.runtime.name

    @property
    def network(self) -> Network:
        """The ``mlx.nn.Module``: ``network(tokens [B, L], cache=None) -> logits [B, L, V]``."""
        return self.runtime.network

    @property
    def config(self) -> Qwen3Config:
        """Its configuration, YaRN included if it was asked for."""
        return self.runtime.config

    @property
    def tokenizer(self) -> Tokenizer:
        """Text to ids and back; special tokens are recognised and kept."""
        return self.runtime.tokenizer

    @property
    def template(self) -> ChatTemplate:
        """Messages to prompt text."""
        return self.runtime.template

    @property
    def family(self) -> Family:
        """``hybrid``, ``thinking``, ``instruct`` or ``coder``."""
        return self.runtime.family

    def generate(
        self,
        prompt: str | Sequence[Message],
        options: GenerationOptions | None = None,
        **overrides: Any,
    ) -> Reply:
        """The whole reply to a prompt or a list of messages. Arguments and errors as `stream`."""
        return Reply.from_events(self.stream(prompt, options, **overrides))

    def stream(
        self,
        prompt: str | Sequence[Message],
        options: GenerationOptions | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        on_progress: Progress | None = None,
        **overrides: Any,
    ) -> Generation:
        """The events of the reply as they come: `Thinking`, `Answer`, `ToolCall`, then `Done`.

        Options come as `GenerationOptions`, as keywords (``thinking_budget=256``), or both: a
        keyword wins. `on_progress` is called with prompt tokens done and in all. Raises
        `OptionError`, `TemplateError` or `ContextError` before anything is computed.
        """
        if isinstance(prompt, str):
            if not prompt.strip():
                raise OptionError("the prompt is empty", hint="say what the model is to do")
            prompt = [{"role": "user", "content": prompt}]
        asked = (options or GenerationOptions()).override(overrides)
        request = prepare(self.runtime, prompt, asked, tools)
        self._running = start(self.runtime, request, on_progress=on_progress)
        return self._running

    def interrupt(self, kind: Interrupt = "stop") -> None:
        """End the thinking (``"answer"``) or the turn (``"stop"``) of the running `stream`."""
        if self._running is not None:
            self._running.interrupt(kind)

    def session(
        self,
        system: str | None = None,
        options: GenerationOptions | None = None,
        **overrides: Any,
    ) -> ChatSession:
        """A conversation with this model; options as for `stream`, for every turn."""
        asked = (options or GenerationOptions()).override(overrides)
        return ChatSession(self.runtime, system, asked)
