"""``qwen3-mlx doctor``: shows which code paths and kernels run here, and why others don't."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from qwen3_mlx.cli import options as opt
from qwen3_mlx.cli.terminal.screen import Screen
from qwen3_mlx.errors import OptionError, gb

if TYPE_CHECKING:
    from qwen3_mlx.metal.verdict import Verdict
    from qwen3_mlx.nn.transformer import Qwen3Network

Row = tuple[str, str]
"""A subject and its state."""


def machine() -> list[Row]:
    """The device and how MLX uses it. Raises `BackendError` if MLX is missing."""
    from importlib.metadata import version

    import qwen3_mlx.device.backend as backend

    import mlx.core as mx

    device = backend.device()
    dtype, why = backend.compute_dtype(mx.bfloat16)
    rows = [
        ("mlx", f"{version('mlx')} on {device}"),
        ("device", str(mx.device_info().get("device_name", device))),
        ("bfloat16", f"computed in {str(dtype).removeprefix('mlx.core.')}: {why}"),
        *memory(),
    ]
    if device == "cpu":
        rows.append(
            ("BLAS", backend.BLAS or "the wheel's own, which is slow: pip install scipy-openblas32")
        )
    return rows


def memory() -> list[Row]:
    """The memory available to a model, MLX's limits, and whether weights are mapped."""
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
    """One row per kernel: whether it may run on this machine, else why not."""
    from qwen3_mlx.metal import dispatch

    return [(name, state) for name, _, state in dispatch.rows()]


def verdicts() -> list[Row]:
    """The saved verdicts on this machine's kernels, the newest first, one row per finding."""
    from qwen3_mlx.metal import verdict
    from qwen3_mlx.nn.trial_outcome import described

    here = [entry for entry in verdict.load_all() if entry.machine == verdict.machine()]
    rows = [(entry.model or "a model", line) for entry in here for line in described(entry)]
    return rows or [("none yet", "qwen3-mlx doctor --prove MODEL tries a model's kernels")]


def paths() -> list[Row]:
    """The code paths of prefill and decode on this machine."""
    from qwen3_mlx.nn import choose_backend

    return list(choose_backend.reasons())


def readings_of_rows() -> list[Row]:
    """How steps of several rows run here, and the saved results of `bench --rows`."""
    from qwen3_mlx.bench import rows_reading
    from qwen3_mlx.metal import dispatch, proof_parts, verdict

    reason = next(filter(None, map(dispatch.off_reason, proof_parts.ROWS)), None)
    here = [entry for entry in verdict.load_all() if entry.machine == verdict.machine()]
    if reason:
        rows = [("now", f"plain operations: {reason}")]
    else:
        rows = [(entry.model or "a model", _rows_state(entry)) for entry in here]
    found = [(one.model, rows_reading.described(one)) for one in rows_reading.load_all()]
    return [*rows, *(found or [("not yet read", "qwen3-mlx bench MODEL --rows reads them")])]


def _rows_state(entry: Verdict) -> str:
    from qwen3_mlx.metal import proof_parts

    faults = {name: entry.fault(name) for name in proof_parts.ROWS}
    wrong = next((f"{name}: {fault}" for name, fault in faults.items() if fault), None)
    return f"plain operations: {wrong}" if wrong else "fused"


def try_kernels(network: Qwen3Network, name: str, kv_bits: int | None = None) -> list[Row]:
    """Try and time the kernels and launch sizes for `network`; one row per finding."""
    from qwen3_mlx.metal import dispatch, prove
    from qwen3_mlx.nn import trial
    from qwen3_mlx.nn.trial_cuts import best_cuts
    from qwen3_mlx.nn.trial_outcome import described
    from qwen3_mlx.options import CacheFormat

    cache_format = CacheFormat(kv_bits)
    name = f"{name}, keys in {kv_bits} bits" if kv_bits else name
    try:
        found, save_error = trial.run(network, cache_format, name, again=True, further=best_cuts)
    except prove.Skipped:
        return [(name, "the machine slept meanwhile, so nothing was found out: once more, please")]
    if found is None:
        reason = dispatch.off_reason("attend") or "the kernels don't take this network"
        return [(name, f"nothing to prove: {reason}")]
    rows = [(name, line) for line in described(found)]
    rows.append(("right", ", ".join(found.right) or "nothing"))
    rows += [("seconds", f"{what}: {spent:.1f}") for what, spent in found.seconds.items()]
    return [*rows, *([("not kept", save_error)] if save_error else [])]


def try_shape(shape: str, kv_bits: int | None = None) -> list[Row]:
    """`try_kernels` for a published shape with random 4-bit weights; needs no download.

    Raises `OptionError` for an unknown shape.
    """
    from qwen3_mlx.bench import random_network
    from qwen3_mlx.config import Qwen3Config

    if shape not in random_network.SHAPES:
        expected = ", ".join(random_network.SHAPES)
        raise OptionError("--prove-shape", got=shape, expected=expected)
    config = Qwen3Config.from_dict(random_network.config_values(shape, "4bit"))
    return try_kernels(random_network.network(config), f"{shape}, random weights", kv_bits)


def try_model(name: str, kv_bits: int | None = None) -> list[Row]:
    """`try_kernels` for the model `name`, and a trial of mapped weights. Raises as `load`."""
    from qwen3_mlx.checkpoint import load_network, try_mapped
    from qwen3_mlx.hub import resolve

    directory = resolve.resolve(name)
    state, save_error = try_mapped.prove(directory)  # before the model takes its memory
    rows = [("zero-copy", f"{state.why}{f'; not kept: {save_error}' if save_error else ''}")]
    return [*try_kernels(load_network(directory)[0], name, kv_bits), *rows]


def files(name: str) -> list[Row]:
    """The faults of a model's files, including NaN in its weights. Raises as `resolve`."""
    from qwen3_mlx.checkpoint import check
    from qwen3_mlx.hub import resolve

    directory = resolve.resolve(name)
    findings = check.check(directory)
    if not any(finding.severity == "error" for finding in findings):
        findings += check.deep_findings(directory)
    rows = [(str(finding.severity), finding.text) for finding in findings]
    return rows or [("sound", "config, tokenizer, index and arrays agree; every float is finite")]


def show(title: str, rows: list[Row]) -> None:
    """Print rows under a title."""
    screen = Screen()
    screen.answer(f"{title}\n")
    for name, state in rows:
        screen.answer(f"  {name:16} {state}\n")


def command(
    model: opt.Model = None,
    prove: Annotated[
        str | None,
        opt.option("MODEL", "Try MODEL's kernels now: right, and faster than MLX's own?", opt.RUN),
    ] = None,
    prove_shape: Annotated[
        list[str] | None,
        opt.option("SHAPE", "The same with random weights of a published size, e.g. 8b.", opt.RUN),
    ] = None,
    kv_bits: Annotated[
        int | None,
        opt.option("N", "Try those that keep keys and values in 8 or 4 bits.", opt.RUN),
    ] = None,
    group: Annotated[
        bool, opt.flag("--group", "Measure the link between the machines of `launch`.", opt.RUN)
    ] = False,
    debug: opt.Debug = False,
) -> None:
    """Show what runs on this machine and where: device, BLAS, limits, paths, and every kernel.

    With MODEL its files are checked too: what they say against one another, and every weight for
    NaN and infinity. Exit code 1 where they can't give right answers.

    Kernels run where this machine has found them right and faster for a model: `--prove` tries
    that. QWEN3_MLX_KERNELS=auto takes all that are right, =off switches all off, and names
    separated by commas switch on only those.
    QWEN3_MLX_PREFILL=packed|each|grouped says how a prompt meets packed weights.

    Examples:

        qwen3-mlx doctor
        qwen3-mlx doctor 8b
        qwen3-mlx doctor --prove 8b
        qwen3-mlx doctor --prove 8b --kv-bits 8
        qwen3-mlx doctor --prove-shape 30b-a3b
        qwen3-mlx launch --hosts mac-1.local,mac-2.local doctor --group
    """
    if group:
        from qwen3_mlx.group import measure, membership

        show("group", list(measure.report(*membership.measured())))
        return
    for shape in prove_shape or []:
        show("proof", try_shape(shape, kv_bits))
    if prove is not None:
        show("proof", try_model(prove, kv_bits))
    if prove is not None or prove_shape:
        return
    report = [("machine", machine()), ("paths", paths()), ("kernels", kernels())]
    report += [("steps of several rows", readings_of_rows()), ("found out here", verdicts())]
    if model is not None:
        report.append((f"files of {model}", files(model)))
    for title, rows in report:
        show(title, rows)
    if model is not None and any(name == "error" for name, _ in report[-1][1]):
        raise typer.Exit(1)
