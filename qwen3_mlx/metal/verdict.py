"""What this machine has found out about the kernels for one network: right or not, faster or not.

A verdict is a file of the cache folder, named by everything that could change it: the kernels'
texts and cuts, MLX, the chip, the system's build (the compiler comes with it), the network's sizes
and packing. Where no name matches nothing is proven. Nothing is sent anywhere.
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
"""How one token goes through a network: MLX's operations; those for single matrices with our
attention and experts; our kernels alone."""

ARMS: tuple[Arm, ...] = ("stock", "hybrid", "fused")
MOST_TRIES = 3
"""Starts at which noise, or a proof that took too long, is tried again; then MLX's operations keep
the place."""


@dataclass(slots=True)
class Reading:
    """Whole decode steps behind one length of past, timed."""

    rates: dict[Arm, float]
    """Tokens a second, medians."""
    gains: dict[Arm, float]
    """Medians of each round's time of `stock` over that of the arm."""
    winner: Arm = "stock"
    noise: str = ""
    """Why nothing was decided, if so."""


@dataclass(slots=True)
class Verdict:
    """What was found, and when."""

    wrong: dict[str, str] = field(default_factory=dict)
    """Kernels that may not run here, and why; ``step``: none of a decode step may."""
    late: dict[str, int] = field(default_factory=dict)
    """Those of them that were only not done in time, and in how many proofs."""
    right: list[str] = field(default_factory=list)
    """Kernels that were tried, and were right."""
    readings: dict[str, Reading] = field(default_factory=dict)
    """By tokens of the past, in order; empty until timed."""
    cuts: dict[str, tuning.Cut] = field(default_factory=dict)
    """Kernels that decode faster with another cut than `tuning` has, and that one."""
    cut_gains: dict[str, float] = field(default_factory=dict)
    """By how much each of them won, ``gate_up=4,2``: rows a simdgroup and simdgroups."""
    tries: int = 0
    """How many trials ended in noise."""
    seconds: dict[str, float] = field(default_factory=dict)
    """What the proof and the trial took."""
    model: str = ""
    """Whose sizes these are, in words."""
    machine: str = ""
    day: str = ""

    def fault(self, name: str) -> str | None:
        """Why the kernel `name` may not run, or None."""
        if reason := self.wrong.get("step") or self.wrong.get(name):
            return reason
        return None if name in self.right else "not tried on this machine"

    def too_late(self, name: str) -> bool:
        """Whether to try `name` again, whose proof was not done in time: that may change."""
        return name in self.wrong and 0 < self.late.get(name, 0) < MOST_TRIES

    @property
    def undecided(self) -> bool:
        """Whether it should be timed: never was, or noise was in the way and it may be less now."""
        if self.wrong.get("step"):
            return False
        noisy = any(reading.noise for reading in self.readings.values())
        return not self.readings or (noisy and self.tries < MOST_TRIES)

    def arms(self) -> tuple[Arm, Arm]:
        """The winners behind a short and behind a long past."""
        won = [r.winner for r in self.readings.values()] or ["stock"]
        return won[0], won[-1]


def folder() -> Path:
    """Where verdicts are kept: ``QWEN3_MLX_HOME``, else the platform's place for caches."""
    return own_folder("cache") / "kernels"


def file_of(signatures: Sequence[Signature]) -> Path:
    """The file of the verdict on a network whose layers have these `signatures`."""
    parts = (_texts(), version("mlx"), machine(), system_build(), described(signatures))
    return folder() / f"{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]}.json"


@cache
def _texts() -> str:
    """A digest of this package's texts, cuts and wrappers."""
    digest = hashlib.sha256()
    own = (f for f in files(__package__).iterdir() if f.name.endswith((".metal", ".h", ".py")))
    for file in sorted(own, key=lambda file: file.name):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


@cache
def machine() -> str:
    """The device's name and architecture, as MLX says them."""
    info = mx.device_info()
    named = (str(info.get(key, "")) for key in ("device_name", "architecture"))
    return " ".join([backend.device(), *filter(None, named)])


@cache
def system_build() -> str:
    """The build of the system: macOS brings the compiler, Linux's kernel the GPU's driver."""
    if platform.system() != "Darwin":
        return platform.release()
    command = ["/usr/sbin/sysctl", "-n", "kern.osversion"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return platform.mac_ver()[0]


def described(signatures: Sequence[Signature]) -> list[dict[str, Any]]:
    """`signatures` as JSON has them; `parsed` reads them."""
    named = [{f.name: getattr(one, f.name) for f in fields(one)} for one in signatures]
    values = [value | {"dtype": str(value["dtype"]).partition("core.")[2]} for value in named]
    return sorted(values, key=json.dumps)


def parsed(values: list[dict[str, Any]]) -> list[Signature]:
    """The signatures that `described` wrote."""
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
    """The verdict in `file`; None if there is none, or none that can be understood."""
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
    """Keep `verdict`; returns why it can't be kept, or None."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(file, json.dumps(asdict(verdict), indent=1).encode())
    except OSError as error:
        return str(error.strerror or error)
    return None


def load_all() -> list[Verdict]:
    """Every verdict of the folder that can be understood, the newest first."""
    try:
        found = sorted(folder().glob("*.json"), key=lambda f: f.stat().st_mtime, reverse=True)
    except OSError:
        return []
    return [verdict for file in found if (verdict := read(file)) is not None]
