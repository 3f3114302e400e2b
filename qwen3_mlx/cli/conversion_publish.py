"""What `convert` asks before hours of work (may its result be put there?), and publishing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qwen3_mlx.cli import conversion_source
from qwen3_mlx.cli.terminal.progress import ProgressLine
from qwen3_mlx.cli.terminal.screen import Screen
from qwen3_mlx.errors import OptionError

if TYPE_CHECKING:
    from qwen3_mlx.cli.commands.convert import ConvertOptions


def check_early(options: ConvertOptions) -> None:
    """Raise `OptionError` for what would fail once the work is done."""
    check_upload(options)
    conversion_source.check_out(options.out)


def ask_hub(options: ConvertOptions) -> None:
    """Raise `HubError` if the hub would refuse the result; a dry run asks nobody."""
    if options.upload is None:
        return
    from qwen3_mlx.quantize import upload

    upload.check_name(options.upload)
    upload.check_revision(options.revision)
    if not options.dry_run:
        upload.check_first(options.upload, private=options.private, revision=options.revision)


def check_upload(options: ConvertOptions) -> None:
    """Raise `OptionError` for a result that can't be published, and for options of no upload."""
    if options.upload is None:
        branch = "" if options.revision is None else "--revision"
        said = "--private" if options.private else branch
        if said:
            raise OptionError(f"{said} without --upload", hint="--upload OWNER/NAME publishes")
    elif not options.verify and not options.force:
        raise OptionError(
            "--upload publishes what was compared with its source",
            got="--no-verify",
            hint="leave --no-verify out, or publish it all the same with --force",
        )


def publish(out: Path, options: ConvertOptions, screen: Screen, progress: ProgressLine) -> None:
    """Upload the result in `out` and say where it is. Raises as `upload`.

    On Ctrl-C, note that nothing is public and the same command goes on.
    """
    from qwen3_mlx.quantize.upload import upload

    assert options.upload is not None
    try:
        where = upload(
            out,
            options.upload,
            private=options.private,
            revision=options.revision,
            on_progress=lambda name, done, total: progress.stage(f"upload {name}", done, total),
            on_removed=lambda names: screen.note(f"removed there: {', '.join(names)}"),
        )
    except KeyboardInterrupt:
        progress.clear()
        screen.note(f"stopped; {out} stays, and the same command sends what hasn't arrived")
        raise
    progress.clear()
    screen.answer(f"published: {where}\n")
