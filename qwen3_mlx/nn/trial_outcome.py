"""What a trial's rounds mean: the winner, and the words for it."""

from __future__ import annotations

import statistics

from qwen3_mlx.metal.verdict import Arm, Reading, Verdict

ROUNDS = 6
"""Rounds of a whole trial."""

GAIN, AGREEING = 1.03, 5
"""An arm needs this median of its rounds' gains, and this many rounds with a gain above 1."""

NOISE = 0.1
"""Relative spread of stock's times above which a gain no larger than the spread is undecided."""

LIMIT_S = 10.0
"""Seconds for each past; a trial that takes longer is undecided."""


def decide(rounds: list[dict[Arm, float]], steps: int) -> Reading:
    """The clear winner, from each round's seconds per block of `steps` steps."""
    stock = [max(one["stock"], 1e-9) for one in rounds]
    rates: dict[Arm, float] = {}
    gains: dict[Arm, float] = {}
    winner: Arm = "stock"
    doubts: dict[Arm, str] = {}
    spread = statistics.pstdev(stock) / statistics.mean(stock)
    for arm in rounds[0]:
        times = [max(one[arm], 1e-9) for one in rounds]
        rates[arm] = round(steps / statistics.median(times), 2)
        if arm == "stock":
            continue
        ratios = [a / b for a, b in zip(stock, times, strict=True)]
        gain = gains[arm] = round(statistics.median(ratios), 3)
        agreeing = sum(ratio > 1 for ratio in ratios)
        if gain >= GAIN and agreeing < AGREEING:
            doubts[arm] = f"only {agreeing} of {len(rounds)} rounds agree"
        elif spread > NOISE and abs(gain - 1) <= spread:
            doubts[arm] = f"the same steps took times {spread:.0%} apart"
        elif gain >= GAIN and gain > gains.get(winner, 1.0):
            winner = arm
    # a clear winner runs, but an arm that may be much better is timed again
    enough = gains[winner] * GAIN if winner != "stock" else 0.0
    noise = next((why for arm, why in doubts.items() if gains[arm] >= enough), "")
    if len(rounds) < ROUNDS:
        winner, noise = "stock", f"cut short after {LIMIT_S:.0f} s"
    return Reading(rates, gains, winner, noise)


def described(held: Verdict) -> list[str]:
    """A verdict's readings, cuts and faults, one line each."""
    lines = [
        f"{past} tokens: {reading.winner}, "
        + ", ".join(_gain(reading, arm) for arm in reading.rates)
        + (f" (undecided: {reading.noise})" if reading.noise else "")
        for past, reading in held.readings.items()
    ]
    lines += [f"{name}: {gain:.2f} × the cut before it" for name, gain in held.cut_gains.items()]
    lines += [f"{kernel}: {fault}" for kernel, fault in held.wrong.items()]
    return lines or ["right, not yet timed" if held.right else "nothing was found out"]


def summary(held: Verdict) -> str:
    """A verdict's meaning for a chat, in one line."""
    if fault := held.wrong.get("step"):
        return f"plain operations run: {fault}"
    best = max(held.readings.values(), key=lambda r: r.gains.get(r.winner, 1.0), default=None)
    if best is None or best.winner == "stock":
        noise = next((r.noise for r in held.readings.values() if r.noise), "")
        reason = f"undecided, {noise}" if noise else "MLX's own are as fast here"
        return f"plain operations run: {reason}"
    return f"{best.winner} steps run, {best.gains[best.winner]:.2f} × as fast as MLX's own"


def _gain(reading: Reading, arm: Arm) -> str:
    times = f" ({reading.gains[arm]:.2f} ×)" if arm in reading.gains else ""
    return f"{arm} {reading.rates[arm]:.1f} tok/s{times}"
