"""The first chat with a model tries its kernels on this machine, once, and says so in a line."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from qwen3_mlx.cli.terminal.screen import describe

if TYPE_CHECKING:
    from qwen3_mlx.model import Qwen3

TryKernels = Callable[["Qwen3", Callable[[str], object], Callable[[], bool]], str]
"""`try_kernels`, or what stands for it in a test."""


def try_kernels(
    model: Qwen3,
    say: Callable[[str], object],
    skipped: Callable[[], bool] = lambda: False,
    key: str = "Ctrl-C",
) -> str:
    """Find out whether this machine's kernels are right and faster for `model`, if nobody has.

    say: shows the line that it begins. skipped: whether its user wants to go on without; then,
    and after Ctrl-C or a failure, MLX's plain operations run, and the next start tries again.
    Returns a line on how it ended; empty where there was nothing to find out.
    """
    from qwen3_mlx.checkpoint import try_mapped
    from qwen3_mlx.metal import prove
    from qwen3_mlx.nn import trial

    try:
        network, cache_format = model.runtime.network, model.runtime.cache_format
        if not trial.wanted(network, cache_format):
            return ""
        say(
            f"trying the kernels for {model.name} on this machine: some ten seconds, once;"
            f" {key} skips it"
        )
        found, unkept = trial.run(network, cache_format, model.name, rows=False, skipped=skipped)
        with contextlib.suppress(Exception):  # then weights are read as they were
            if model.runtime.path is not None and not skipped():
                try_mapped.prove(model.runtime.path, again=False)
    except (prove.Skipped, KeyboardInterrupt):
        return "kernels: skipped; the next start tries them again"
    except Exception as error:  # nothing that a trial meets may cost the chat
        return f"kernels: not tried, plain operations run ({describe(error)})"
    if unkept:
        return f"kernels: plain operations run, the result can't be kept: {unkept}"
    return f"kernels: {trial.summary(found)}" if found else ""
