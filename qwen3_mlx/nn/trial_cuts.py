"""Tries other cuts of the matrix kernels on Metal, for `doctor --prove`.

A child process proves each cut as it does all kernels; then whole decode steps with the cut are
timed against those with the best cuts so far, kernel by kernel.
"""

from __future__ import annotations

import qwen3_mlx.device.backend as backend

from qwen3_mlx.metal import dispatch, prove, tuning
from qwen3_mlx.metal.verdict import Arm, Verdict
from qwen3_mlx.nn import trial
from qwen3_mlx.nn.fused_step import kernels_of
from qwen3_mlx.nn.signature import signatures
from qwen3_mlx.nn.transformer import Qwen3Network
from qwen3_mlx.options import CacheFormat


def best_cuts(
    network: Qwen3Network, cache_format: CacheFormat, held: Verdict, skipped: trial.Skipped
) -> tuple[dict[str, tuning.Cut], dict[str, float]]:
    """The cuts with which the arm that `held` chose decodes faster, and the gain of each.

    Empty if MLX's operations run, or no further cuts are known. Raises `prove.Skipped`.
    """
    arm = next((arm for arm in held.arms() if arm != "stock"), None)
    if arm is None or backend.device() != "metal":
        return {}, {}
    kernels = kernels_of(arm, network, cache_format)
    names = [
        f"{kernel}={rows},{simds}"
        for kernel, cuts in tuning.FURTHER.items()
        if kernel in kernels and not dispatch.off_reason(kernel)
        for rows, simds in cuts
    ]
    if not names:
        return {}, {}
    found = prove.prove(signatures(network, cache_format), skipped=skipped, names=names)
    best: dict[str, tuning.Cut] = {}
    gains: dict[str, float] = {}
    past = next(trial.pasts(network, 2), None)
    for name in names:
        if past is None or name not in found.right:
            continue
        _, cut = prove.parsed_name(name)
        runs = _runs(network, cache_format, arm, past, best, cut)
        trial.warm(runs, skipped)
        reading = trial.timed(runs, skipped)
        if reading.winner == "fused":
            best |= cut
            gains[name] = reading.gains["fused"]
    return best, gains


def _runs(
    network: Qwen3Network,
    cache_format: CacheFormat,
    arm: Arm,
    past: int,
    best: tuning.Cuts,
    cut: tuning.Cuts,
) -> dict[Arm, trial.Run]:
    """The best cuts so far as `stock`, and the challenger as `fused`."""
    first = trial.Run(network, cache_format, arm, past, best)
    return {"stock": first, "fused": trial.Run(network, cache_format, arm, past, {**best, **cut})}
