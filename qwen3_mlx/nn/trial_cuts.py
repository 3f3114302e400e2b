"""The further trial of `doctor --prove`: other cuts of the matrix kernels, on Metal.

Each is tried for what it computes in a child, as all kernels are, then whole decode steps are timed
against those with the best so far, kernel after kernel.
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
    """The cuts with which the arm that `held` chose decodes faster, and by how much each won.

    Empty where MLX's operations run, and where nobody knows further cuts. Raises `prove.Skipped`.
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
    """The best so far in the place of `stock`, and the challenger in that of `fused`."""
    first = trial.Run(network, cache_format, arm, past, best)
    return {"stock": first, "fused": trial.Run(network, cache_format, arm, past, {**best, **cut})}
