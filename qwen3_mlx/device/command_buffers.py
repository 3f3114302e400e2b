"""How much work MLX puts into one Metal command buffer, set before MLX is imported.

MLX reads ``MLX_MAX_OPS_PER_BUFFER`` and ``MLX_MAX_MB_PER_BUFFER`` once, when the device is made.
Its defaults end a command buffer after 40 to 50 operations or MB, and count the whole stack of
experts for every gather, so a Mixture of Experts commits dozens of times a token, at about 20 µs
each (mlx#4521: +5 to 8 % on an M3 Ultra with these values). Measured elsewhere: raising them is
flat or worse on M5 (mlxcel#360), costs memory in prefill on small machines (vllm-metal#585), and
halves the speed on CUDA. So they are raised on M1 to M4 Max and Ultra with 64 GB or more, and what
the user has set is never touched.
"""

from __future__ import annotations

import os
import platform
import re

OPERATIONS, MEGABYTES = 1000, 400
_SMALLEST = 64 * 2**30
_CHIP = re.compile(r"Apple M([1-4]) (Max|Ultra)")


def decide(chip: str, memory: int, environment: dict[str, str]) -> tuple[dict[str, str], str]:
    """The variables to set for `chip` with `memory` bytes, and why."""
    given = sorted(
        name for name in ("MLX_MAX_OPS_PER_BUFFER", "MLX_MAX_MB_PER_BUFFER") if name in environment
    )
    if given:
        return {}, f"set by you: {', '.join(given)}"
    if not _CHIP.fullmatch(chip):
        return {}, f"MLX's own: raising them is not known to help on {chip or 'this machine'}"
    if memory < _SMALLEST:
        return {}, "MLX's own: raising them costs memory, and this machine has less than 64 GB"
    raised = {
        "MLX_MAX_OPS_PER_BUFFER": str(OPERATIONS),
        "MLX_MAX_MB_PER_BUFFER": str(MEGABYTES),
    }
    return raised, f"raised to {OPERATIONS} operations, {MEGABYTES} MB on {chip}"


def apply() -> str:
    """Set them for this process; returns why they are what they are. Call before importing MLX."""
    if (platform.system(), platform.machine()) != ("Darwin", "arm64"):
        return "MLX's own: only Metal has command buffers"
    chip, memory = _sysctl("machdep.cpu.brand_string"), _sysctl("hw.memsize")
    values, why = decide(chip, int(memory or 0), dict(os.environ))
    os.environ.update(values)
    return why


def _sysctl(name: str) -> str:
    import subprocess

    try:
        run = subprocess.run(["/usr/sbin/sysctl", "-n", name], capture_output=True, text=True)
    except OSError:
        return ""
    return run.stdout.strip()
