"""Chooses a model and loads it, showing progress."""

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
    OptionError,
    Qwen3Error,
)
from qwen3_mlx.hub import kinds, resolve
from qwen3_mlx.options import AS_COMPUTED, CacheFormat, check_context

if TYPE_CHECKING:
    from qwen3_mlx.model import Qwen3

DEMO = "demo"
DEMO_NOTE = (
    "demo is a small demonstration bundled with qwen3-mlx (sums, sorting, small talk), not a real"
    " Qwen3; for one, run: qwen3-mlx chat 4b (2.3 GB), or see: qwen3-mlx info 8b"
)

GONE = (ModelNotFoundError, HubError, ConfigError, CheckpointError)
"""Errors of opening a model that is missing or incomplete."""


def choose(model: str | None) -> tuple[str, str]:
    """The name of the model to open, and a note if it is the demo by default.

    Without `model`: the model of the settings, else the last chat's, else the demo, which also
    replaces a last model that is gone. Raises `ConfigError` for an invalid setting.
    """
    from qwen3_mlx.cli.settings import settings

    name = model or settings.load().get("model")
    return (name, "") if name else unset()


def unset() -> tuple[str, str]:
    """As `choose` if the settings name no model: the last chat's model, else the demo."""
    last = folders.last_model() or DEMO
    if last == DEMO:
        return DEMO, DEMO_NOTE
    try:
        check_chats(last)
    except (Qwen3Error, OSError) as error:
        return DEMO, stand_in_note(last, error)
    return last, ""


def is_last(model: str | None, name: str) -> bool:
    """Whether `name` was chosen only because the last chat used it, not by argument or setting."""
    from qwen3_mlx.cli.settings import settings

    return model is None and name != DEMO and settings.load().get("model") is None


def stand_in_note(name: str, error: Exception) -> str:
    """A line that says why the demo replaces the last chat's model."""
    why = error.summary if isinstance(error, Qwen3Error) else str(error)
    name, why = _one_line(name), _one_line(why)
    return f"{name}, the model of the last chat, can't be opened, so demo answers: {why}"


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 200 else f"{line[:197]}..."


def context_of(given: int | None, name: str, screen: Screen) -> int | None:
    """The context of the command line, else `default_context`. Raises `OptionError`."""
    try:
        given = check_context(given)
    except OptionError as error:
        hint = "leave --context out for the model's own"
        raise OptionError("--context", got=error.got, expected=error.expected, hint=hint) from None
    return default_context(name, screen) if given is None else given


def default_context(name: str, screen: Screen) -> int | None:
    """The settings' context in tokens; None, with a note, if it is too long for `name`.

    Raises `ConfigError` for an invalid setting.
    """
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
        pass  # loading the model reports the error
    return tokens


def check_chats(name: str) -> None:
    """Raise `OptionError` for an embedder or reranker, before it is downloaded or read."""
    found = resolve.find_local(name)
    kind = kinds.of_directory(found) if found else kinds.of_name(resolve.parse(name).repo)
    kinds.check_writes_text(kind, name)


def check_drafts(draft: str | None) -> None:
    """Raise for a name that isn't a model or can't draft, before anything is loaded."""
    if draft not in (None, "lookup"):
        check_chats(draft)


def note_download(name: str, screen: Screen) -> None:
    """Tell the user if loading `name` begins with a download."""
    if resolve.find_local(name) is None:
        screen.note(f"downloading {resolve.parse(name).repo}; it is kept for the next time")


def open_model(
    name: str,
    context: int | None,
    screen: Screen,
    cache_format: CacheFormat = AS_COMPUTED,
    adapter: Path | None = None,
    draft: str | None = None,
) -> Qwen3:
    """Load `name`, with a note on a download and a progress line. Raises as `load`."""
    check_chats(name)
    note_download(name, screen)
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
    """As `open_model` for the last chat's model; if it is gone, the demo with a note."""
    try:
        return name, open_model(name, context, screen, cache_format, adapter, draft)
    except GONE as error:
        if adapter is not None or draft is not None:
            raise  # either may be the cause, and neither fits the demo
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
