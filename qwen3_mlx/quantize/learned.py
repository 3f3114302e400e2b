"""Learned quantization by mlx-lm: DWQ tunes the scales of our packing, AWQ makes its own.

Both hold the whole model in memory, DWQ also a packed copy, and mlx-lm downloads a text. AWQ
supports dense models only. This package does comparison, card, record and upload; a killed run
starts again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from qwen3_mlx.errors import CheckpointError, OptionError, shown
from qwen3_mlx.quantize import job as jobs
from qwen3_mlx.quantize import staging
from qwen3_mlx.quantize.formats import open_source
from qwen3_mlx.quantize.formats.mlx import MlxPart
from qwen3_mlx.quantize.plan import INDEX, as_json, make_plan
from qwen3_mlx.quantize.target_check import check_in_the_way

METHODS = ("dwq", "awq")
Run = Callable[[str, list[str]], None]
"""Runs ``mlx_lm.METHOD`` with these arguments."""


def check(method: str | None) -> None:
    """Raise `OptionError` unless `method` is None or one of `METHODS`."""
    if method is not None and method not in METHODS:
        raise OptionError("--learned", got=shown(method), expected=" or ".join(METHODS))


def run(
    job: jobs.Conversion,
    method: str,
    on_progress: jobs.StageProgress | None = None,
    run: Run | None = None,
) -> dict[str, Any]:
    """Convert with `method`; returns the record. Raises as `job.run`, and `CheckpointError`."""
    job = keyed(job, method)
    job.target.check(job.request.source, job.request.force)
    with job.target.held():
        return _run(job, method, on_progress, run or mlx_lm)


def check_run(job: jobs.Conversion, method: str | None) -> None:
    """Raise what `run`, or without a method `job.run`, raises before it writes anything."""
    if method is None:
        jobs.check_run(job)
        return
    job = keyed(job, method)
    jobs.check_run(job, planned=False)
    if job.target.record() is None:
        _made(job, method)


def keyed(job: jobs.Conversion, method: str) -> jobs.Conversion:
    """`job` with a target whose key names the method too: the same plan gives other weights."""
    return replace(job, target=replace(job.target, key=f"{job.target.key}-{method}"))


def _run(
    job: jobs.Conversion, method: str, on_progress: jobs.StageProgress | None, run: Run
) -> dict[str, Any]:
    job.target.check(job.request.source, job.request.force)
    found = jobs.finished(job, planned=False)  # a plan for mlx-lm's weights comes with them
    if found is not None:
        return found
    made = _made(job, method)
    staging.remove_checkpoint(job.target.disk, made)
    part = staging.write_checkpoint(job.plan, job.target)
    run(method, _arguments(job, method, part, made))
    job = _adopt(job, method, made)
    staging.remove_checkpoint(job.target.disk, made)
    return jobs.finish(job, part, on_progress)


def _made(job: jobs.Conversion, method: str) -> Path:
    """The directory that mlx-lm writes. Raises `OptionError` if it is the user's."""
    made = job.request.out.with_name(f"{job.request.out.name}.{method}")
    # mlx-lm writes the weights first: what a killed run left is told by this job's journal.
    known = job.target.journal_key() == job.target.key
    check_in_the_way(made, known=known, force=job.request.force)
    return made


def _arguments(job: jobs.Conversion, method: str, part: Path, made: Path) -> list[str]:
    """The arguments for mlx-lm. Raises `OptionError` for a recipe that AWQ can't use."""
    source = ["--model", str(job.request.source), "--mlx-path", str(made)]
    if method == "dwq":
        return [*source, "--quantized-model", str(part)]
    spec = job.plan.recipe.default
    if spec is None or spec.mode != "affine" or job.plan.source.config.is_moe:
        expected = "a dense model and a recipe with bits"
        raise OptionError("--learned awq", got=job.plan.recipe.name, expected=expected)
    sizes = {"bits": spec.bits, "group-size": spec.group_size, "embed-bits": max(spec.bits, 6)}
    return [*source, *(w for k, v in sizes.items() for w in (f"--{k}", str(v)))]


def mlx_lm(method: str, arguments: list[str]) -> None:
    """Run mlx-lm's program in this process. Raises `CheckpointError`."""
    module, before = import_module(f"mlx_lm.quant.{method}"), sys.argv
    sys.argv = [f"mlx_lm.{method}", *arguments]
    try:
        module.main()
    except (Exception, SystemExit) as error:
        got = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"mlx_lm.{method} failed", got=got) from error
    finally:
        sys.argv = before


def _adopt(job: jobs.Conversion, method: str, made: Path) -> jobs.Conversion:
    """Replace our weights by mlx-lm's, and plan again from their actual packing."""
    result = open_source(made)
    firsts = ((weight.path, weight.parts[0]) for weight in result.weights)
    specs = {path: one.spec if isinstance(one, MlxPart) else None for path, one in firsts}
    recipe = replace(job.plan.recipe, name=f"{job.plan.recipe.name}-{method}", paths=specs)
    plan = make_plan(job.plan.source, recipe, dtype=result.dtype, allow_lossy=True)
    disk, part = job.target.disk, job.target.part
    for old in [*part.glob("*.safetensors"), part / INDEX, part / "config.json"]:
        disk.remove(old)
    for file in [*sorted(made.glob("*.safetensors")), made / INDEX]:
        disk.rename(file, part / file.name)
    disk.write_file(part / "config.json", as_json(plan.config()))
    return replace(job, plan=plan)
