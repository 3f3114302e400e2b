"""Chooses a model and loads it, with progress for a download or a long load."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from qwen3_mlx.cli.settings import folders
from qwen3_mlx.cli.terminal.progress import ProgressLine
from qwen3_mlx.cli.terminal.screen import Screen
from qwen3_mlx.errors import (
    CheckpointError,
    ConfigError,
    ContextError,
    HubError,
    ModelNotFoundError,
    Qwen3Error,
)
from qwen3_mlx.hub import kinds, resolve
from qwen3_mlx.options import AS_COMPUTED, CacheFormat

if TYPE_CHECKING:
    from qwen3_mlx.model import Qwen3

DEMO = "demo"
DEMO_NOTE = (
    "demo is a small demonstration bundled with qwen3-mlx (sums, sorting, small talk), not a real"
    " Qwen3; for one, run: qwen3-mlx chat 4b (2.3 GB), or see: qwen3-mlx info 8b"
)

GONE = (ModelNotFoundError, HubError, ConfigError, CheckpointError)
"""A model that isn't there, or isn't whole: errors of opening it."""


def choose(model: str | None) -> tuple[str, str]:
    """The model to open, and a note if it is the demo by default.

    Without `model` it is the one that is set, else that of the last chat, else the demo; the demo
    too where the last one is gone. Raises `ConfigError` if a setting is not valid.
    """
    from qwen3_mlx.cli.settings import settings

    name = model or settings.load().get("model")
    return (name, "") if name else unset()


def unset() -> tuple[str, str]:
    """The same where no model is set: that of the last chat, else the demo."""
    last = folders.last_model() or DEMO
    if last == DEMO:
        return DEMO, DEMO_NOTE
    try:
        check_chats(last)
    except (Qwen3Error, OSError) as error:
        return DEMO, stand_in_note(last, error)
    return last, ""


def is_last(model: str | None, name: str) -> bool:
    """Whether `name` is no more than the model of the last chat, where `model` was asked for."""
    from qwen3_mlx.cli.settings import settings

    return model is None and name != DEMO and settings.load().get("model") is None


def stand_in_note(name: str, error: Exception) -> str:
    """One line: the model of the last chat can't be opened, and why."""
    why = error.summary if isinstance(error, Qwen3Error) else str(error)
    name, why = _one_line(name), _one_line(why)
    return f"{name}, the model of the last chat, can't be opened, so demo answers: {why}"


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 200 else f"{line[:197]}..."


def default_context(name: str, screen: Screen) -> int | None:
    """The context that is set, unless the model `name` can't have it. Raises `ConfigError`."""
    from qwen3_mlx.cli.settings import settings
    from qwen3_mlx.config import Qwen3Config

    tokens: int | None = settings.load().get("context")
    if tokens is None:
        return None
    try:
        if found := resolve.find_local(name):
            Qwen3Config.from_dir(found).for_context(tokens)
    except ContextError:
        screen.note(f"the context that is set, {tokens:,} tokens, is too long for {name}")
        return None
    except Qwen3Error:
        pass  # loading it says what is wrong
    return tokens


def check_chats(name: str) -> None:
    """Raise `OptionError` for an embedder, before it is downloaded or read."""
    found = resolve.find_local(name)
    kind = kinds.of_directory(found) if found else kinds.of_name(resolve.parse(name).repo)
    kinds.check_writes_text(kind, name)


def check_drafts(draft: str | None) -> None:
    """Raise for a name that means no model, or one that can't draft, before anything is loaded."""
    if draft not in (None, "lookup"):
        check_chats(draft)


def open_model(
    name: str,
    context: int | None,
    screen: Screen,
    cache_format: CacheFormat = AS_COMPUTED,
    adapter: Path | None = None,
    draft: str | None = None,
) -> Qwen3:
    """Load `name`, saying so if it must be downloaded first or takes long. Raises as `load`."""
    check_chats(name)
    if resolve.find_local(name) is None:
        screen.note(f"downloading {resolve.parse(name).repo}; it is kept for the next time")
    progress = ProgressLine(screen, f"loading {name}")
    try:
        model = load_model(name, context, progress, cache_format, adapter, draft)
    finally:
        progress.clear()
    if model.note:
        screen.note(model.note)
    return model


def open_or_demo(
    name: str,
    context: int | None,
    screen: Screen,
    cache_format: CacheFormat = AS_COMPUTED,
    adapter: Path | None = None,
    draft: str | None = None,
) -> tuple[str, Qwen3]:
    """As `open_model`, for the model of the last chat: the demo, with a note, where it is gone."""
    try:
        return name, open_model(name, context, screen, cache_format, adapter, draft)
    except GONE as error:
        if adapter is not None or draft is not None:
            raise  # either may be what is wrong, and fits no other model
        screen.note(stand_in_note(name, error))
    return DEMO, open_model(DEMO, None, screen, cache_format)


def load_model(
    name: str,
    context: int | None,
    on_progress: Callable[[int, int], None],
    cache_format: CacheFormat = AS_COMPUTED,
    adapter: Path | None = None,
    draft: str | None = None,
) -> Qwen3:
    """Load `name`; a download draws its own progress on stderr. Raises as `load`."""
    check_chats(name)
    from qwen3_mlx.model import load  # brings MLX

    return load(
        name,
        context=context,
        kv_bits=cache_format.bits,
        kv_window=cache_format.window,
        kv_sinks=cache_format.sinks,
        on_progress=on_progress,
        adapter=adapter,
        draft=draft,
    )


def yarn_note(model: Qwen3) -> str:
    """A warning about short texts if YaRN stretches the model's context; else ""."""
    config = model.config
    yarn = config.rope.scaling
    if yarn is None or yarn.factor == 1:
        return ""
    return (
        f"context {config.context:,}: YaRN, factor {yarn.factor:g} over {config.native_context:,}."
        " It is static, so short texts suffer a little too: leave --context out for those"
    )
