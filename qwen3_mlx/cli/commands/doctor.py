"""``qwen3-mlx doctor``: what runs on this machine and where, and why the rest doesn't."""

from __future__ import annotations

import typer

from qwen3_mlx.cli import options as opt
from qwen3_mlx.cli.terminal.screen import Screen
from qwen3_mlx.errors import gb

Row = tuple[str, str]
"""A subject, and its state."""


def machine() -> list[Row]:
    """The device and how MLX uses it. Raises `BackendError` where MLX is missing."""
    from importlib.metadata import version

    import qwen3_mlx.device.backend as backend

    import mlx.core as mx

    device = backend.device()
    dtype, why = backend.compute_dtype(mx.bfloat16)
    rows = [
        ("mlx", f"{version('mlx')} on {device}"),
        ("device", str(mx.device_info().get("device_name", device))),
        ("bfloat16", f"computed in {str(dtype).removeprefix('mlx.core.')}: {why}"),
        ("command buffers", backend.LIMITS),
        *memory(),
    ]
    if device == "cpu":
        rows.append(
            ("BLAS", backend.BLAS or "the wheel's own, which is slow: pip install scipy-openblas32")
        )
    return rows


def memory() -> list[Row]:
    """Memory for a model, MLX's limits, and the way weights are read."""
    from qwen3_mlx.checkpoint import mapped
    from qwen3_mlx.device import memory_limits
    from qwen3_mlx.fit import machine

    place, limits = machine.this_machine(), memory_limits.apply()
    return [
        ("memory", f"{gb(place.available_bytes)}: {place.why}"),
        ("limits", limits.why),
        ("wired memory", limits.wired_why),
        ("zero-copy", mapped.state().why),
    ]


def kernels() -> list[Row]:
    """A row a fused kernel: whether it runs, else why not."""
    from qwen3_mlx.metal import dispatch

    return [(name, state) for name, _, state in dispatch.rows()]


def paths() -> list[Row]:
    """How tokens are read and written here: many at once, and one after another."""
    from qwen3_mlx.nn import choose_backend

    return list(choose_backend.reasons())


def files(name: str) -> list[Row]:
    """The faults of a model's files, NaN in its weights included. Raises as `resolve`."""
    from qwen3_mlx.checkpoint import check
    from qwen3_mlx.hub import resolve

    directory = resolve.resolve(name)
    findings = check.check(directory)
    if not any(finding.severity == "error" for finding in findings):
        findings += check.array_findings(directory)
    rows = [(str(finding.severity), finding.text) for finding in findings]
    return rows or [("sound", "config, tokenizer, index and arrays agree; every float is finite")]


def command(model: opt.Model = None, debug: opt.Debug = False) -> None:
    """Show what runs on this machine and where: device, BLAS, limits, paths, and every kernel.

    With MODEL its files are checked too: what they say against one another, and every weight for
    NaN and infinity. Exit code 1 where they can't give right answers.

    QWEN3_MLX_KERNELS=auto tries the kernels that are not yet proven on this kind of machine,
    =off switches all off, and names separated by commas switch on only those.
    QWEN3_MLX_PREFILL=packed|each|grouped says how a prompt meets packed weights.

    Examples:

        qwen3-mlx doctor
        qwen3-mlx doctor 8b
        QWEN3_MLX_KERNELS=auto qwen3-mlx doctor
    """
    report = [("machine", machine()), ("paths", paths()), ("kernels", kernels())]
    if model is not None:
        report.append((f"files of {model}", files(model)))
    screen = Screen()
    for title, rows in report:
        screen.answer(f"{title}\n")
        for name, state in rows:
            screen.answer(f"  {name:16} {state}\n")
    if model is not None and any(name == "error" for name, _ in report[-1][1]):
        raise typer.Exit(1)
