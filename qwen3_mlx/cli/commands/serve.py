"""``qwen3-mlx serve``: serves a model to other programs over HTTP."""

from __future__ import annotations

import logging
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from qwen3_mlx.cli import options as opt
from qwen3_mlx.cli.chat import load
from qwen3_mlx.cli.settings import folders
from qwen3_mlx.cli.terminal.progress import ProgressLine
from qwen3_mlx.cli.terminal.screen import Screen
from qwen3_mlx.options import CacheFormat
from qwen3_mlx.serve.settings import Settings

if TYPE_CHECKING:
    from qwen3_mlx.model import Qwen3

WHO, LIMITS = "Who may ask", "Limits"


@dataclass(frozen=True, slots=True)
class Listening:
    """The options for the server's address and its clients."""

    host: Annotated[
        str, opt.option("NAME", "The address to listen on; beyond this machine a key is needed.")
    ] = Settings.host
    port: Annotated[int, opt.option("N", "0 takes any free one.", min=0, max=65535)] = Settings.port
    api_key_file: Annotated[
        Path | None,
        opt.option("FILE", "The key clients must send; or set `QWEN3_MLX_API_KEY`.", WHO),
    ] = None
    origin: Annotated[
        list[str] | None,
        opt.option("URL", "A web page's origin that may ask too; may be repeated.", WHO),
    ] = None
    allow_host: Annotated[
        list[str] | None,
        opt.option("NAME", "Another name this machine is called by; may be repeated.", WHO),
    ] = None
    strict_model: Annotated[
        bool, opt.flag("--strict-model", "Refuse a request for another model's name.", WHO)
    ] = False


@dataclass(frozen=True, slots=True)
class Limits:
    """The options that limit concurrency and memory."""

    parallel: Annotated[
        int, opt.option("N", "Answers that are computed at once.", LIMITS, min=1, max=1024)
    ] = Settings.parallel
    queue: Annotated[
        int,
        opt.option(
            "N", "Requests that may wait; more are told to come back.", LIMITS, min=0, max=1_000_000
        ),
    ] = Settings.queue
    prefix_memory: Annotated[
        float | None,
        opt.option(
            *("GB", "For conversations kept between turns; default: a quarter of what is free."),
            LIMITS,
            min=0,
            max=1_000_000,
        ),
    ] = None
    keep_prefixes: Annotated[
        bool,
        opt.flag("--keep-prefixes", "Write them to disk at the end, for the next start.", LIMITS),
    ] = False
    drain: Annotated[
        float,
        opt.option(
            *("S", "Seconds that answers get to end when the server must."),
            LIMITS,
            min=0,
            max=86_400,
        ),
    ] = Settings.drain_seconds


@opt.with_options
def command(
    listening: Listening,
    limits: Limits,
    model: opt.Model = None,
    context: Annotated[int | None, opt.option("N", opt.CONTEXT_HELP, opt.RUN)] = None,
    adapter: Annotated[
        Path | None, opt.option("DIR", "A LoRA adapter for the model.", opt.RUN)
    ] = None,
    draft: Annotated[
        str | None,
        opt.option("NAME", "Guess tokens, several a step: a smaller model, or `lookup`.", opt.RUN),
    ] = None,
    kv_bits: Annotated[
        int | None, opt.option("N", "Keep keys and values in 8 or 4 bits.", opt.RUN)
    ] = None,
    quiet: Annotated[bool, opt.flag("--quiet", "No line for each request.", opt.RUN)] = False,
    debug: opt.Debug = False,
) -> None:
    """Serve a model to other programs, the way OpenAI's and Anthropic's servers do.

    Its address is the one line on stdout, once it listens. Ctrl-C or SIGTERM lets running answers
    end. It serves this machine only, unless `--host` says otherwise, and never logs what is said.

    Examples:

        qwen3-mlx serve 8b
        qwen3-mlx serve coder-30b --port 9000 --context 131072
        qwen3-mlx serve 4b --host 0.0.0.0 --api-key-file ~/.qwen3-key
    """
    from qwen3_mlx.serve.run import serve

    screen, cache_format = Screen(), CacheFormat(kv_bits)
    _configure_logging(quiet=quiet, debug=debug)
    load.check_drafts(draft)
    name, note = load.choose(model)
    if note:
        screen.note(note)

    def open_model() -> Qwen3:
        wanted_context = load.context_of(context, name, screen)
        return _open(name, wanted_context, screen, cache_format, adapter, draft)

    serve(
        _settings(listening, limits), open_model, lambda url, model: _announce(screen, url, model)
    )


def _settings(listening: Listening, limits: Limits) -> Settings:
    folder = folders.prompts() / "serve" if limits.keep_prefixes else None
    return Settings(
        prefix_folder=folder,
        host=listening.host,
        port=listening.port,
        api_key_file=listening.api_key_file,
        origins=tuple(listening.origin or ()),
        hosts=tuple(listening.allow_host or ()),
        strict=listening.strict_model,
        parallel=limits.parallel,
        queue=limits.queue,
        prefix_gb=limits.prefix_memory,
        drain_seconds=limits.drain,
    )


def _open(
    name: str,
    context: int | None,
    screen: Screen,
    format: CacheFormat,
    adapter: Path | None,
    draft: str | None,
) -> Qwen3:
    """Load a model of any kind. Raises as `load`."""
    load.note_download(name, screen)
    from qwen3_mlx.model import load as load_any

    progress = ProgressLine(screen, f"loading {name}")
    try:
        model = load_any(
            name,
            context=context,
            kv_bits=format.bits,
            on_progress=progress,
            adapter=adapter,
            draft=draft,
        )
    finally:
        progress.clear()
    screen.notes(note for note in (model.note, load.yarn_note(model)) if note)
    return model


def _announce(screen: Screen, url: str, model: Qwen3) -> None:
    """Print the address on stdout, and how clients use it on stderr."""
    lines = [f"{model.name} is served; Ctrl-C ends it"]
    if model.kind == "chat":
        lines += [
            f"  OpenAI's clients:    OPENAI_BASE_URL={url}/v1 OPENAI_API_KEY=x",
            f"  Anthropic's clients: ANTHROPIC_BASE_URL={url} ANTHROPIC_AUTH_TOKEN=x",
        ]
    else:
        path = "/v1/embeddings" if model.kind == "embedder" else "/v1/rerank"
        lines.append(f"  {model.kind}: POST {url}{path}")
    screen.answer(f"{url}\n")
    screen.notes(lines)


def _configure_logging(*, quiet: bool, debug: bool) -> None:
    """Log to stderr with the time: one line per request, without its text."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_without_words)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    for name in ("qwen3_mlx", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers[:], logger.propagate = [handler], False
    level = logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO
    logging.getLogger("qwen3_mlx").setLevel(level)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns for every lost client


def _without_words(record: logging.LogRecord) -> bool:
    """Log an error's type and traceback but not its message, which may quote a prompt.

    Drops the errors of turns that a second Ctrl-C cancelled.
    """
    if not record.exc_info:
        return True
    from asyncio import CancelledError  # slow to import

    error, frames = record.exc_info[1], traceback.format_tb(record.exc_info[2])
    record.msg = f"{record.getMessage().strip()}: {type(error).__name__}\n{''.join(frames)}"
    record.args, record.exc_info, record.exc_text = (), None, None
    return not isinstance(error, CancelledError)
