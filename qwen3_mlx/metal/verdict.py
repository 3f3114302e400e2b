"""Verdicts: whether the kernels for a network are right on this machine, and whether faster.

A verdict is a file in the cache folder, named by a hash of everything that could change it: this
package's files, MLX's version, the chip, the system's build (which includes the compiler), the
network's sizes and packing. Without such a file nothing is proven. Nothing is sent anywhere.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import qwen3_mlx.device.backend as backend

import mlx.core as mx

from qwen3_mlx.files import own_folder, read_small, write_atomically
from qwen3_mlx.metal import tuning
from qwen3_mlx.metal.variants import Signature

Arm = Literal["stock", "hybrid", "fused"]
"""How a network computes one token: by MLX's operations; by these for single matrices, with our
attention and experts; or only by our kernels."""

ARMS: tuple[Arm, ...] = ("stock", "hybrid", "fused")
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
MOST_TRIES = 3
"""How often a noisy trial, or a proof that took too long, is repeated at later starts; after that,
MLX's operations stay in use."""


@dataclass(slots=True)
class Reading:
    """The timing of whole decode steps after a past of one length."""

    rates: dict[Arm, float]
    """Median tokens per second."""
    gains: dict[Arm, float]
    """Medians over the rounds of the time of `stock` divided by the arm's time."""
    winner: Arm = "stock"
    noise: str = ""
    """Why nothing was decided; empty if something was."""


@dataclass(slots=True)
class Verdict:
    """The results of proof and trial for one network on this machine."""

    wrong: dict[str, str] = field(default_factory=dict)
    """Kernels that must not run here, and why; ``step``: none of a decode step may run."""
    late: dict[str, int] = field(default_factory=dict)
    """Kernels of `wrong` whose proof only took too long, and the number of such proofs."""
    right: list[str] = field(default_factory=list)
    """Kernels that were tried and are right."""
    readings: dict[str, Reading] = field(default_factory=dict)
    """Timings by the length of the past in tokens, in ascending order; empty until timed."""
    cuts: dict[str, tuning.Cut] = field(default_factory=dict)
    """Kernels that decode faster with a different cut than `tuning`'s, and that cut."""
    cut_gains: dict[str, float] = field(default_factory=dict)
    """The speedup of each cut, by names like ``gate_up=4,2``: rows per simdgroup, simdgroups."""
    tries: int = 0
    """How many trials were too noisy to decide."""
    seconds: dict[str, float] = field(default_factory=dict)
    """The seconds that the parts of the proof and the trial took."""
    model: str = ""
    """A readable name of the model that has these sizes."""
    machine: str = ""
    day: str = ""

    def fault(self, name: str) -> str | None:
        """Why the kernel `name` must not run, or None."""
        if reason := self.wrong.get("step") or self.wrong.get(name):
            return reason
        return None if name in self.right else "not tried on this machine"

    def too_late(self, name: str) -> bool:
        """Whether to try `name` again: its proof took too long, fewer than `MOST_TRIES` times."""
        return name in self.wrong and 0 < self.late.get(name, 0) < MOST_TRIES

    @property
    def undecided(self) -> bool:
        """Whether to time the kernels: never timed, or noisy in fewer than `MOST_TRIES` trials."""
        if self.wrong.get("step"):
            return False
        noisy = any(reading.noise for reading in self.readings.values())
        return not self.readings or (noisy and self.tries < MOST_TRIES)

    def arms(self) -> tuple[Arm, Arm]:
        """The winners after a short and after a long past."""
        won = [r.winner for r in self.readings.values()] or ["stock"]
        return won[0], won[-1]


def folder() -> Path:
    """The folder of the verdicts: in ``QWEN3_MLX_HOME``, else in the platform's cache folder."""
    return own_folder("cache") / "kernels"


def file_of(signatures: Sequence[Signature]) -> Path:
    """The file of the verdict for a network whose layers have these `signatures`."""
    parts = (_texts(), version("mlx"), machine(), system_build(), described(signatures))
    return folder() / f"{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]}.json"


@cache
def _texts() -> str:
    """A digest of this package's files: kernels' sources, wrappers and cuts."""
    digest = hashlib.sha256()
    own = (f for f in files(__package__).iterdir() if f.name.endswith((".metal", ".h", ".py")))
    for file in sorted(own, key=lambda file: file.name):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


@cache
def machine() -> str:
    """The backend, and the device's name and architecture as MLX reports them."""
    info = mx.device_info()
    named = (str(info.get(key, "")) for key in ("device_name", "architecture"))
    return " ".join([backend.device(), *filter(None, named)])


@cache
def system_build() -> str:
    """The system's build: macOS includes the compiler; Linux's kernel, and NVIDIA's driver."""
    if platform.system() != "Darwin":
        return " ".join([platform.release(), *_nvidia_driver()])
    command = ["/usr/sbin/sysctl", "-n", "kern.osversion"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return platform.mac_ver()[0]


def _nvidia_driver() -> list[str]:
    """The version line of its kernel module; empty without one."""
    try:
        return NVIDIA_DRIVER.read_text().splitlines()[:1]
    except (OSError, UnicodeDecodeError):
        return []


def described(signatures: Sequence[Signature]) -> list[dict[str, Any]]:
    """`signatures` as sorted JSON values; `parsed` reverses it."""
    named = [{f.name: getattr(one, f.name) for f in fields(one)} for one in signatures]
    values = [value | {"dtype": str(value["dtype"]).partition("core.")[2]} for value in named]
    return sorted(values, key=json.dumps)


def parsed(values: list[dict[str, Any]]) -> list[Signature]:
    """The signatures from `described`'s values."""
    return [
        Signature(
            **value
            | {"dtype": getattr(mx, value["dtype"])}
            | {name: tuple(value[name]) for name in ("packing", "router", "kv_packing")}
            | {"others": tuple((role, tuple(packing)) for role, packing in value["others"])}
        )
        for value in values
    ]


def read(file: Path) -> Verdict | None:
    """The verdict in `file`; None if the file is missing or invalid."""
    try:
        value = json.loads(read_small(file).decode("utf-8"))
        readings = {past: Reading(**reading) for past, reading in value.pop("readings").items()}
        cuts = {name: (int(rows), int(simds)) for name, (rows, simds) in value.pop("cuts").items()}
        found = Verdict(**value, readings=readings, cuts=cuts)
        sound = isinstance(found.wrong, dict) and isinstance(found.right, list)
        sound = sound and isinstance(found.tries, int) and isinstance(found.late, dict)
        return found if sound and {r.winner for r in readings.values()} <= set(ARMS) else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def write(file: Path, verdict: Verdict) -> str | None:
    """Write `verdict` to `file`, atomically; returns why that failed, or None."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(file, json.dumps(asdict(verdict), indent=1).encode())
    except OSError as error:
        return str(error.strerror or error)
    return None


def load_all() -> list[Verdict]:
    """All valid verdicts in the folder, the newest first."""
    try:
        found = sorted(folder().glob("*.json"), key=lambda f: f.stat().st_mtime, reverse=True)
    except OSError:
        return []
    return [verdict for file in found if (verdict := read(file)) is not None]
