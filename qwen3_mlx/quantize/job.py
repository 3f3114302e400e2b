"""Runs a conversion from end to end, plan, write, verify, card, unless it is already done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import qwen3_mlx.device.backend

import mlx.core as mx

from qwen3_mlx.checkpoint.check import check, require_sound
from qwen3_mlx.checkpoint.model_files import Finding
from qwen3_mlx.config.recipes import Recipe
from qwen3_mlx.errors import CheckpointError, HubError
from qwen3_mlx.hub.remote_files import RemoteFiles
from qwen3_mlx.quantize import measured_bits, staging
from qwen3_mlx.quantize.card import card
from qwen3_mlx.quantize.disk import Disk
from qwen3_mlx.quantize.formats import open_source
from qwen3_mlx.quantize.formats.fused import fuse
from qwen3_mlx.quantize.journal import DIGESTS, check_directory, finished_shards, sha256
from qwen3_mlx.quantize.origin import Origin, origin_of, public_name
from qwen3_mlx.quantize.plan import SHARD_BYTES, Plan, as_json, make_plan
from qwen3_mlx.quantize.result_check import damage, record_fault
from qwen3_mlx.quantize.source_pass import SourcePass
from qwen3_mlx.quantize.streamed import streamed
from qwen3_mlx.quantize.target_check import RECORD, check_replaceable

StageProgress = Callable[[str, int, int], None]
"""Called with the stage (measure, convert, verify), the units done, and all units."""


@dataclass(frozen=True, slots=True)
class ConversionRequest:
    """The parameters of a conversion."""

    source: Path
    name: str
    """The source as the user named it."""
    out: Path
    recipe: Recipe
    command: str
    title: str = ""
    """The model's name in the card: the target repository, or by default the directory's name."""
    dtype: mx.Dtype | None = None
    allow_lossy: bool = False
    force: bool = False
    verify: bool = True
    shard_bytes: int = SHARD_BYTES
    adapter: Path | None = None
    """A LoRA adapter to fuse into the weights."""
    remote: RemoteFiles | None = None
    """Fetches the source's files, if they aren't on this machine."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """A request with its plan."""

    request: ConversionRequest
    plan: Plan
    origin: Origin
    target: staging.Target
    findings: tuple[Finding, ...] = ()
    """Contradictions between the source's files; errors are raised instead."""

    def card(self, measured: dict[str, Any] | None) -> str:
        """The card with the measurements, if there are any."""
        title = self.request.title or self.request.out.name
        return card(self.plan, self.origin, title, measured, self.request.command)


def prepare(
    request: ConversionRequest, on_progress: StageProgress | None = None, disk: Disk | None = None
) -> Conversion:
    """Plan the conversion without writing. A recipe with a target measures the source first.

    Raises `ConfigError`, `CheckpointError` or `OptionError`.
    """
    disk = disk or Disk()
    source = open_source(request.source)
    if request.remote is not None:
        source = streamed(source, request.remote)
    if request.adapter is not None:
        source = fuse(source, request.adapter)
    findings = check(request.source)
    require_sound(findings, "the source")
    recipe = request.recipe
    if recipe.target is not None:
        dtype = make_plan(source, recipe, dtype=request.dtype, allow_lossy=True).dtype
        errors = measured_bits.measure(source, recipe, _stage(on_progress, "measure"))
        recipe = measured_bits.choose(source, recipe, errors, dtype)
    plan = make_plan(
        source,
        recipe,
        dtype=request.dtype,
        allow_lossy=request.allow_lossy,
        shard_bytes=request.shard_bytes,
    )
    target = staging.target_of(plan, request.out, disk)
    if request.adapter is not None:
        target.check_apart(request.adapter, "the adapter")
    return Conversion(
        request, plan, origin_of(request.source, request.name), target, tuple(findings)
    )


def run(job: Conversion, on_progress: StageProgress | None = None) -> dict[str, Any]:
    """Convert unless it is done; returns the record of the conversion.

    Raises `OptionError`, also while another process converts to the same target,
    `CheckpointError`, and the loader's errors.
    """
    request, target = job.request, job.target
    target.check(request.source, request.force)
    found = finished(job)
    if found is not None and _is_enough(found, request) and not target.is_unfinished:
        return found  # without locking, so that a read-only disk works too
    with target.held():
        return _run(job, on_progress)


def _run(job: Conversion, on_progress: StageProgress | None) -> dict[str, Any]:
    request, target = job.request, job.target
    target.check(request.source, request.force)  # another process may have finished meanwhile
    found = finished(job)
    if found is not None:
        staging.clean(target)  # an earlier run may have been killed just before cleaning
        if _is_enough(found, request):
            return found
        return finish(job, request.out, on_progress, digests=found.get(DIGESTS))
    beside, extra = None, 0
    if request.remote is not None:
        extra = request.remote.most_bytes
        beside = _beside(job) if request.verify else None
    progress = _stage(on_progress, "convert")
    directory = staging.write_checkpoint(job.plan, target, progress, beside, extra)
    return finish(job, directory, on_progress, beside, finished_shards(target.journal))


def check_run(job: Conversion, *, planned: bool = True) -> None:
    """Raise what `run` raises before it writes anything. planned: as for `finished`."""
    job.target.check(job.request.source, job.request.force)
    if finished(job, planned=planned) is None:
        check_directory(job.target.part, job.target.journal)
        staging.check_room(job.plan, job.target)


def finished(job: Conversion, *, planned: bool = True) -> dict[str, Any] | None:
    """The record of the same conversion if its result is there, whole; else None.

    planned: the weights are those of the plan. Raises `CheckpointError` for a result that has
    lost files since, or whose record was changed; with ``--force``, which reads the weights and
    finds changed bytes too, it is converted again.
    """
    record, out = job.target.record(), job.request.out
    if record is None:
        return None
    fault = record_fault(record) or damage(
        job.plan, out, planned, record.get(DIGESTS) if job.request.force else None
    )
    if fault is None:
        return record
    if job.request.force:
        check_replaceable(out, force=True)  # before the work, not after it
        return None
    hint = "convert it again with --force, or name another --out"
    raise CheckpointError(f"{out} is not what was converted", got=fault, hint=hint)


def _beside(job: Conversion) -> SourcePass:
    from qwen3_mlx.quantize import verify

    source = job.plan.source
    return SourcePass(source, verify.token_ids(source)[0], job.target.states, job.target.key)


def _is_enough(record: dict[str, Any], request: ConversionRequest) -> bool:
    return record.get("measured") is not None or not request.verify


def finish(
    job: Conversion,
    directory: Path,
    on_progress: StageProgress | None = None,
    beside: SourcePass | None = None,
    digests: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Verify the checkpoint in `directory`, write card and record, and rename it to the target.

    digests: those of the weights, by file; else the files are read for them.
    """
    request, target = job.request, job.target
    require_sound(check(directory), "the result")
    measured = None
    if request.verify:
        from qwen3_mlx.quantize import verify

        progress = _stage(on_progress, "verify")
        measured = verify.compare(job.plan.source, directory, progress, beside).as_dict()
    if digests is None:
        digests = {file.name: sha256(file) for file in sorted(directory.glob("*.safetensors"))}
    record = _record(job, measured) | {DIGESTS: digests}
    files = {RECORD: as_json(record), "README.md": job.card(measured).encode()}
    if directory == target.part:
        staging.finish(target, files)
    else:
        for name, data in files.items():
            target.disk.write_file(directory / name, data)
    return record


def passes(record: dict[str, Any]) -> bool:
    """Whether the record's measurements are within its recipe's bound."""
    kl = (record["measured"] or {}).get("kl_mean")
    perplexity = (record["measured"] or {}).get("perplexity_result")
    return kl is not None and perplexity is not None and kl <= record["recipe"]["bound"]


def check_publishable(record: dict[str, Any], force: bool) -> None:
    """Raise `HubError` for a result that wasn't verified or exceeds the recipe's bound."""
    if force or passes(record):
        return
    measured, bound = record["measured"], record["recipe"]["bound"]
    if measured is None:
        hint = "convert without --no-verify, or publish it all the same with --force"
        raise HubError("not published: the result was not compared with its source", hint=hint)
    raise HubError(
        "not published: the result is too far from its source",
        got=f"{measured['kl_mean']} nats a token",
        expected=f"a mean KL divergence of at most {bound}",
        hint="take a recipe with more bits, or publish it all the same with --force",
    )


def _record(job: Conversion, measured: dict[str, Any] | None) -> dict[str, Any]:
    plan, recipe = job.plan, job.plan.recipe
    packings = {item.weight.path: asdict(item.spec) for item in plan.items if item.spec}
    return {
        "key": job.target.key,
        "converter": f"qwen3-mlx {qwen3_mlx.__version__}",
        "mlx": version("mlx"),
        "command": job.request.command,
        "source": job.origin.as_dict()
        | {"format": plan.source.format, "bytes": plan.source.nbytes},
        **({"adapter": public_name(job.request.adapter)} if job.request.adapter else {}),
        "recipe": {"name": recipe.name, "about": recipe.about, "bound": recipe.bound},
        "dtype": str(plan.dtype).rpartition(".")[2],
        "weight_bytes": plan.weight_bytes,
        "bits_per_weight": round(plan.bits_per_weight, 4),
        "measured": measured,
        "packings": packings,
    }


def _stage(on_progress: StageProgress | None, stage: str) -> Callable[[int, int], None] | None:
    if on_progress is None:
        return None
    return lambda done, total: on_progress(stage, done, total)
