"""`convert --shares`: splits a checkpoint into one file per machine, converting it if needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen3_mlx.cli import conversion_source
from qwen3_mlx.cli.conversion_report import summary
from qwen3_mlx.cli.terminal.progress import ProgressLine
from qwen3_mlx.cli.terminal.screen import Screen
from qwen3_mlx.config import share
from qwen3_mlx.config.share import Share
from qwen3_mlx.errors import OptionError, gb

if TYPE_CHECKING:
    from qwen3_mlx.config.shares import Shares
    from qwen3_mlx.quantize.job import ConversionRequest


def first_share(count: int, attention: str, pipeline: bool) -> Share:
    """The share of rank 0 of `count` machines. Raises `OptionError`."""
    if not 2 <= count <= 16:
        raise OptionError("--shares", got=count, expected="2 to 16 machines")
    return share.from_options(0, count, attention, pipeline)


def packed_source(name: str, screen: Screen) -> Path | None:
    """The directory of a source in MLX's packed format, downloaded; None for other sources."""
    from qwen3_mlx.checkpoint.model_files import Files
    from qwen3_mlx.hub import download, resolve

    def is_packed(values: dict[str, Any]) -> bool:
        return bool(values.get("quantization"))

    found = resolve.find_local(name)
    if found is not None:
        return found if is_packed(Files(found).values) else None
    source = resolve.parse(name)
    if not source.repo or not is_packed(download.describe(source).config):
        return None
    return conversion_source.find(name, False, screen)


def of_packed(
    source: Path, out: Path, own: Share, force: bool, screen: Screen, progress: ProgressLine
) -> None:
    """Split `source` without converting it. Raises as `quantize.sharing.share_out`."""
    from qwen3_mlx.group.versions import digest
    from qwen3_mlx.quantize import sharing
    from qwen3_mlx.quantize.checkpoint_entries import record_of
    from qwen3_mlx.quantize.staging import Target

    screen.note("the source is packed already: its tensors are shared out as they are")
    target = Target(out, sharing.key_of(digest(source), own))
    target.check(source, force)
    if target.record() is None:
        with target.held():
            record = record_of(source)
            sharing.share_out(source, target, own, record, _stage_progress(progress))
    progress.clear()
    _report_files(out, screen)


def of_conversion(
    request: ConversionRequest, own: Share, screen: Screen, progress: ProgressLine
) -> None:
    """Convert to a temporary whole checkpoint, split it, and remove it. Raises as both steps."""
    from qwen3_mlx.config import Qwen3Config
    from qwen3_mlx.quantize import job as jobs
    from qwen3_mlx.quantize import sharing, staging
    from qwen3_mlx.quantize.staging import Target
    from qwen3_mlx.quantize.whole import Whole

    out, whole = request.out, request.out.with_name(f"{request.out.name}.whole")
    job = jobs.prepare(replace(request, out=whole), progress.stage)
    # An indivisible model is an error before hours of work.
    own.config(Qwen3Config.from_dict(job.plan.config()))
    target = Target(out, sharing.key_of(job.target.key, own))
    if request.adapter is not None:
        target.check_apart(request.adapter, "the adapter")
    target.check(request.source, request.force)
    temporary = Whole(job.target, out.with_name(f"{out.name}.shares"))
    if target.record() is None:
        temporary.check()
        sharing.check_part(target, own.size)
        job.target.check(request.source, request.force)
        if jobs.finished(job) is None:  # the whole and its shares are there together
            staging.check_room(job.plan, job.target, job.plan.weight_bytes)
        temporary.begin()
        record = jobs.run(job, progress.stage)
        progress.clear()
        screen.note(summary(whole, record).rstrip())
        with target.held():
            sharing.share_out(whole, target, own, record, _stage_progress(progress))
    temporary.remove()
    if request.remote is not None:
        request.remote.close()
    progress.clear()
    _report_files(out, screen)


def _stage_progress(progress: ProgressLine) -> Callable[[int, int], None]:
    def report(done: int, total: int) -> None:
        progress.stage("share out", done, total, f", {gb(done)} of {gb(total)}")

    return report


def _report_files(out: Path, screen: Screen) -> None:
    """Print the files, what to copy to each machine, and the command that runs them."""
    from qwen3_mlx.checkpoint.share_files import read_shares

    shares = read_shares(out)
    assert shares is not None
    screen.answer(f"{out}: shared out to {shares.description}\n{files(shares)}")
    screen.note(f"each machine needs its file and the small ones; then: {shares.launch}")


def files(shares: Shares) -> str:
    """The files and their sizes, one per line."""
    rows = ((shares.name(rank), size) for rank, (size, _) in enumerate(shares.files))
    return "".join(f"{name}  {size:>15,}\n" for name, size in rows)
