"""The plan of a group: its machines, their addresses, and the variables for MLX."""

from __future__ import annotations

import json
import os
import re
import socket
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from qwen3_mlx.config.share import Share
from qwen3_mlx.errors import BackendError, OptionError, Qwen3Error, shown
from qwen3_mlx.files import read_json, read_small

VARIABLE, STATUS = "QWEN3_MLX_GROUP", "QWEN3_MLX_GROUP_STATUS"
"""Variables with the plan's file, and with the file for a process's status."""
LAUNCHER = "QWEN3_MLX_GROUP_LAUNCHER"
"""The id of the watching process, `launch` itself or the one it has started on another machine: it
reports the loss of a machine, and the group ends with it."""
BACKENDS = ("ring", "jaccl", "nccl")
_LINK = re.compile(r"[^\s:]+:\d{1,5}")
_EXPECTED = {"hosts": "a name", "secret": "a text"}
LOCAL = ("localhost", "127.0.0.1")
MOST = 16


@dataclass(frozen=True, slots=True)
class Plan:
    """A group of machines; the first is the user's."""

    hosts: tuple[str, ...]
    """The machines' names for ssh and in messages."""
    links: tuple[str, ...]
    """``address:port`` of each machine for MLX's collectives."""
    control: str
    """``address:port`` of the first machine's control line."""
    secret: str
    backend: str = "ring"
    attention: bool = True
    """Whether attention is split, not only the feed-forward networks."""
    pipeline: bool = False
    """Whether each machine holds whole layers instead of a part of every layer."""
    rdma: tuple[tuple[str | None, ...], ...] = ()
    """JACCL's devices from each host to every other."""

    def share(self, rank: int) -> Share:
        """The share of machine `rank`."""
        return Share(rank, self.size, self.attention, self.pipeline)

    @property
    def size(self) -> int:
        """The number of machines."""
        return len(self.hosts)

    def name(self, rank: int) -> str:
        """The name of a machine in messages."""
        return f"machine {rank} ({self.hosts[rank]})"

    def text(self) -> str:
        """The plan as JSON, including the secret."""
        return json.dumps(asdict(self))

    def variables(self, rank: int, folder: Path) -> dict[str, str]:
        """The environment variables of process `rank`; writes MLX's files to `folder`."""
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


def read_plan(text: str | bytes | dict[str, Any]) -> Plan:
    """Parse a plan. Raises `OptionError`."""
    try:
        values = text if isinstance(text, dict) else json.loads(text)
        for name in ("hosts", "links"):
            values[name] = tuple(values[name])
        values["rdma"] = tuple(tuple(row) for row in values.get("rdma", ()))
        plan = Plan(**values)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        got = f"no {error}" if isinstance(error, KeyError) else str(error)
        hint = "launch writes it for each run"
        raise OptionError("the group's file can't be read", got=got, hint=hint) from None
    for name in ("hosts", "links", "control", "secret"):
        value = getattr(plan, name)
        for one in value if isinstance(value, tuple) else (value,):
            if not isinstance(one, str) or (
                name in ("links", "control") and not _LINK.fullmatch(one)
            ):
                expected = _EXPECTED.get(name, "an address:port")
                got = "another thing" if name == "secret" else shown(one)
                raise OptionError(f"the group's file: {name}", got=got, expected=expected)
    if not 2 <= plan.size <= MOST or len(plan.links) != plan.size or plan.backend not in BACKENDS:
        raise OptionError("the group's file", got=shown(plan.hosts), expected="2 to 16 machines")
    return plan


def current() -> tuple[Plan, int] | None:
    """This process's group and rank; None outside a group.

    Raises `OptionError`; `ConfigError` if the plan's file can't be read.
    """
    file = os.environ.get(VARIABLE)
    if not file:
        return None
    plan = read_plan(
        read_json(Path(file), f"{VARIABLE} names it: launch sets it for its own programs")
    )
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

    A host may be named twice only if all hosts are this machine.
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
    """The plan with JACCL's devices from MLX's hostfile. Raises `OptionError`."""
    if file is None:
        hint = "mlx.distributed_config --backend jaccl --hosts … --output-hostfile FILE makes one"
        raise OptionError("--rdma is missing", expected="a hostfile of MLX's", hint=hint)
    try:
        rows = json.loads(read_small(file))
        rows = rows["hosts"] if isinstance(rows, dict) else rows
        rdma = tuple(tuple(row["rdma"]) for row in rows)
    except OSError as error:
        got, hint = error.strerror or str(error), "name the hostfile that MLX wrote"
        raise OptionError(f"{file} can't be read", got=got, hint=hint) from None
    except (ValueError, KeyError, TypeError, RecursionError):
        expected = '{"hosts": [{"rdma": [null, "rdma_en2"]}, …]}, as MLX writes it'
        raise OptionError(f"{file} is no hostfile", expected=expected) from None
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
    """Write a file readable only by its owner. Raises `Qwen3Error`."""
    try:
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
            out.write(text)
    except OSError as error:
        raise Qwen3Error(f"{file.name} can't be written", got=error.strerror) from None


def launched_by() -> int | None:
    """The id of the watching process, if it is still this one's parent."""
    parent = os.environ.get(LAUNCHER, "")
    return int(parent) if parent.isdigit() and int(parent) == os.getppid() else None


def note_status(status: str) -> bool:
    """Note this process's status for the watching one; returns whether there is one.

    Raises `Qwen3Error` if the file can't be written.
    """
    if file := os.environ.get(STATUS):
        _private(Path(file), status)
    return bool(file)
