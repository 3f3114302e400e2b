"""Tries a model's kernels on this machine before the first chat with it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from qwen3_mlx.cli.terminal.screen import describe

if TYPE_CHECKING:
    from qwen3_mlx.model import Qwen3

TryKernels = Callable[["Qwen3", Callable[[str], object], Callable[[], bool]], str]
"""The type of `try_kernels`."""


def try_kernels(
    model: Qwen3,
    say: Callable[[str], object],
    skipped: Callable[[], bool] = lambda: False,
    key: str = "Ctrl-C",
) -> str:
    """Test whether the kernels are correct and faster for `model`, unless a verdict is saved.

    say: shows the line that announces the trial. skipped: whether the user skips it; then, and
    after Ctrl-C or a failure, MLX's plain operations run, and the next start tries again.
    Returns a line on the outcome; empty if there was nothing to test.
    """
    from qwen3_mlx.checkpoint import try_mapped
    from qwen3_mlx.metal import prove
    from qwen3_mlx.nn import trial
    from qwen3_mlx.nn.trial_outcome import summary

    try:
        network, cache_format = model.runtime.network, model.runtime.cache_format
        if not trial.wanted(network, cache_format):
            return ""
        say(
            f"trying the kernels for {model.name} on this machine: some ten seconds, once;"
            f" {key} skips it"
        )
        found, save_error = trial.run(
            network, cache_format, model.name, rows=False, skipped=skipped
        )
        with contextlib.suppress(Exception):  # on failure the weights are read as before
            if model.runtime.path is not None and not skipped():
                try_mapped.prove(model.runtime.path, again=False)
    except (prove.Skipped, KeyboardInterrupt):
        return "kernels: skipped; the next start tries them again"
    except Exception as error:  # no failure of a trial may end the chat
        return f"kernels: not tried, plain operations run ({describe(error)})"
    if save_error:
        return f"kernels: plain operations run, the result can't be kept: {save_error}"
    return f"kernels: {summary(found)}" if found else ""
