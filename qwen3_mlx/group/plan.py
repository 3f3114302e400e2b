"""Which machines make a group, where they meet, and the variables that MLX reads of it."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from qwen3_mlx.config.share import Share
from qwen3_mlx.errors import BackendError, OptionError, Qwen3Error, shown
from qwen3_mlx.files import read_json, read_small

VARIABLE, STATUS = "QWEN3_MLX_GROUP", "QWEN3_MLX_GROUP_STATUS"
"""The file of the plan; the file in which a process notes how far it is."""
LAUNCHER = "QWEN3_MLX_GROUP_LAUNCHER"
"""The id of the process that `launch` is, or which it has started there: it speaks for a group
whose first machine is lost, and the group ends with it."""
BACKENDS = ("ring", "jaccl", "nccl")
LOCAL = ("localhost", "127.0.0.1")
MOST = 16


@dataclass(frozen=True, slots=True)
class Plan:
    """A group of machines; the first is the one that its user sits at."""

    hosts: tuple[str, ...]
    """As ssh knows them, and as messages name them."""
    links: tuple[str, ...]
    """``address:port`` of each, for MLX's sums."""
    control: str
    """``address:port`` where the first is told of and tells the others."""
    secret: str
    backend: str = "ring"
    attention: bool = True
    """Whether attention is split as well as the feed-forward networks."""
    pipeline: bool = False
    """Whether each machine holds whole layers in place of a part of every one."""
    rdma: tuple[tuple[str | None, ...], ...] = ()
    """JACCL's devices: from each host to each other."""

    def share(self, rank: int) -> Share:
        """What that machine holds of a model."""
        return Share(rank, self.size, self.attention, self.pipeline)

    @property
    def size(self) -> int:
        """Machines in all."""
        return len(self.hosts)

    def name(self, rank: int) -> str:
        """How messages call one of them."""
        return f"machine {rank} ({self.hosts[rank]})"

    def text(self) -> str:
        """As a file, with the secret."""
        return json.dumps(asdict(self))

    def variables(self, rank: int, folder: Path) -> dict[str, str]:
        """What the environment of that process must hold; writes files beside the plan's."""
        file = folder / "plan.json"
        _private(file, self.text())
        own = {VARIABLE: str(file), "MLX_RANK": str(rank), STATUS: str(folder / f"status-{rank}")}
        address, _, port = self.links[0].rpartition(":")
        if self.backend == "ring":
            hosts = folder / "ring.json"
            _private(hosts, json.dumps([[link] for link in self.links]))
            return own | {"MLX_HOSTFILE": str(hosts)}
        if self.backend == "jaccl":
            devices = folder / "rdma.json"
            _private(devices, json.dumps(self.rdma))
            return own | {"MLX_IBV_DEVICES": str(devices), "MLX_JACCL_COORDINATOR": self.links[0]}
        cards = {"CUDA_VISIBLE_DEVICES": str(rank)} if len(set(self.hosts)) == 1 else {}
        nccl = {"NCCL_HOST_IP": address, "NCCL_PORT": port, "MLX_WORLD_SIZE": str(self.size)}
        return own | nccl | cards


def read_plan(text: str | dict[str, Any]) -> Plan:
    """A plan from its text. Raises `OptionError`."""
    try:
        values = json.loads(text) if isinstance(text, str) else text
        for name in ("hosts", "links"):
            values[name] = tuple(values[name])
        values["rdma"] = tuple(tuple(row) for row in values.get("rdma", ()))
        plan = Plan(**values)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise OptionError("the group's file can't be read", got=str(error)) from None
    if not 2 <= plan.size <= MOST or len(plan.links) != plan.size or plan.backend not in BACKENDS:
        raise OptionError("the group's file", got=shown(plan.hosts), expected="2 to 16 machines")
    return plan


def current() -> tuple[Plan, int] | None:
    """The group of this process and its rank; None: it runs alone. Raises `OptionError`."""
    file = os.environ.get(VARIABLE)
    if not file:
        return None
    plan = read_plan(read_json(Path(file)))
    rank = os.environ.get("MLX_RANK", "")
    if not rank.isdigit() or int(rank) >= plan.size:
        raise OptionError("MLX_RANK", got=shown(rank), expected=f"0 to {plan.size - 1}")
    return plan, int(rank)


def new_plan(
    hosts: list[str],
    secret: str,
    *,
    backend: str = "ring",
    attention: bool = True,
    pipeline: bool = False,
    port: int = 0,
) -> Plan:
    """The plan of `hosts`, the first of which is this machine. Raises `OptionError`.

    A host named twice gets two processes only if it is this machine, or of one machine's cards.
    """
    if not 2 <= len(hosts) <= MOST:
        raise OptionError("--hosts", got=f"{len(hosts)} of them", expected=f"2 to {MOST} names")
    if backend not in BACKENDS:
        raise OptionError("--backend", got=shown(backend), expected=", ".join(BACKENDS))
    if pipeline and backend == "nccl":
        hint = "share tensors out instead (without --pipeline), or take --backend ring"
        raise OptionError("--pipeline over NCCL", got="it has no send", hint=hint)
    alone = all(host in LOCAL for host in hosts)
    twice = sorted({host for host in hosts if hosts.count(host) > 1})
    if twice and not alone:
        raise OptionError(
            "--hosts names a machine twice", got=", ".join(twice), expected="each once"
        )
    if not alone and hosts[0] in LOCAL:
        hint = "name this machine as the others reach it, such as mac-1.local or 192.168.1.10"
        raise OptionError("--hosts: the first one", got=hosts[0], hint=hint)
    addresses = [_address(host) for host in hosts]
    ports = _free_ports(len(hosts) + 1) if alone and not port else _ports(port, len(hosts) + 1)
    return Plan(
        tuple(hosts),
        tuple(f"{a}:{p}" for a, p in zip(addresses, ports[1:], strict=True)),
        f"{addresses[0]}:{ports[0]}",
        secret,
        backend,
        attention,
        pipeline,
    )


def read_rdma(plan: Plan, file: Path | None) -> Plan:
    """The plan with JACCL's devices, from a hostfile of MLX's. Raises `OptionError`."""
    if file is None:
        hint = "mlx.distributed_config --backend jaccl --hosts … --output-hostfile FILE makes one"
        raise OptionError("--rdma is missing", expected="a hostfile of MLX's", hint=hint)
    try:
        rows = json.loads(read_small(file))
        rows = rows["hosts"] if isinstance(rows, dict) else rows
        rdma = tuple(tuple(row["rdma"]) for row in rows)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OptionError(f"{file} can't be read", got=str(error)) from None
    if [len(row) for row in rdma] != [plan.size] * plan.size:
        got, expected = f"{len(rdma)} hosts", f"{plan.size}, with as many devices each"
        raise OptionError(f"{file}: rdma", got=got, expected=expected)
    return replace(plan, rdma=rdma)


def _address(host: str) -> str:
    try:
        return socket.gethostbyname(host)
    except OSError as error:
        hint = "check its name, or give its address"
        raise BackendError(f"no machine {host}", got=error.strerror, hint=hint) from None


def _ports(first: int, count: int) -> list[int]:
    return [(first or 41_500) + i for i in range(count)]


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _private(file: Path, text: str) -> None:
    """Write a file that only its owner reads."""
    try:
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
            out.write(text)
    except OSError as error:
        raise Qwen3Error(f"{file.name} can't be written", got=error.strerror) from None


def launched_by() -> int | None:
    """The id of the process that watches this one, if it is still its parent."""
    parent = os.environ.get(LAUNCHER, "")
    return int(parent) if parent.isdigit() and int(parent) == os.getppid() else None


def note_status(status: str) -> bool:
    """Note how far this process is, for the one that watches it; whether one is there.

    Raises `Qwen3Error` where it can't be written.
    """
    if file := os.environ.get(STATUS):
        _private(Path(file), status)
    return bool(file)
