"""``qwen3-mlx convert``: quantizes a checkpoint, measures the loss, writes the card, uploads."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qwen3_mlx.cli import conversion_shares, conversion_source
from qwen3_mlx.cli import options as opt
from qwen3_mlx.cli.conversion_publish import ask_hub, check_early, publish
from qwen3_mlx.cli.conversion_report import preview, summary
from qwen3_mlx.cli.conversion_stop import says_how_to_go_on
from qwen3_mlx.cli.settings import suggestions
from qwen3_mlx.cli.terminal.progress import ProgressLine
from qwen3_mlx.cli.terminal.screen import Screen
from qwen3_mlx.errors import OptionError, gb, shown

if TYPE_CHECKING:
    from qwen3_mlx.config.recipes import Recipe
    from qwen3_mlx.quantize.job import ConversionRequest

WORK, SHARES, PUBLISH = "Conversion", "Several machines", "Publishing"
DTYPES = ("bfloat16", "float16", "float32")
SHARD_GB, MOST_SHARD_GB = 5.0, 1e6


@dataclass(frozen=True, slots=True)
class ConvertOptions:
    """The options of `convert`."""

    out: Annotated[
        Path | None,
        opt.option("DIR", "Where to write it (default: name and recipe, in this directory).", WORK),
    ] = None
    recipe: Annotated[
        str,
        opt.option(
            "NAME",
            "A recipe's name, or a `.toml` file.",
            WORK,
            autocompletion=suggestions.recipes,
        ),
    ] = "4bit"
    list_recipes: Annotated[bool, opt.flag("--list", "List the recipes and leave.", WORK)] = False
    target: Annotated[
        float | None,
        opt.option("BITS", "Bits a weight over all, for the recipe `dynamic`.", WORK),
    ] = None
    dtype: Annotated[
        str | None,
        opt.option("TYPE", "What floats are stored in: bfloat16, float16 or float32.", WORK),
    ] = None
    learned: Annotated[
        str | None,
        opt.option(
            "METHOD",
            "Tune the packing with mlx-lm: `dwq` (after converting) or `awq` (in its place).",
            WORK,
        ),
    ] = None
    fuse: Annotated[
        Path | None,
        opt.option("ADAPTER", "Fuse this LoRA adapter into the weights (PEFT's, mlx-lm's).", WORK),
    ] = None
    allow_lossy: Annotated[
        bool, opt.flag("--allow-lossy", "Pack a packed MLX model again.", WORK)
    ] = False
    force: Annotated[
        bool, opt.flag("--force", "Replace a checkpoint in DIR; publish above the bound.", WORK)
    ] = False
    verify: Annotated[
        bool, opt.flag("--verify/--no-verify", "Compare the result with SOURCE.", WORK)
    ] = True
    shard_size: Annotated[float, opt.option("GB", "The largest file.", WORK)] = SHARD_GB
    keep_source: Annotated[
        bool,
        opt.flag("--keep-source", "Fetch SOURCE whole, to the hub's cache, and keep it.", WORK),
    ] = False
    dry_run: Annotated[
        bool,
        opt.flag("--dry-run", "Show every file and the card; write and ask nothing.", WORK),
    ] = False
    shares: Annotated[
        int | None,
        opt.option("N", "Write a file for each of N machines of `launch`.", SHARES),
    ] = None
    attention: Annotated[
        str, opt.option("HOW", "Split or whole, as `launch` is to be told.", SHARES)
    ] = "split"
    pipeline: Annotated[
        bool, opt.flag("--pipeline", "Whole layers a machine, as `launch --pipeline`.", SHARES)
    ] = False
    upload: Annotated[
        str | None,
        opt.option("REPO", "Publish as `owner/name`, with the token in HF_TOKEN.", PUBLISH),
    ] = None
    private: Annotated[bool, opt.flag("--private", "Make REPO private.", PUBLISH)] = False
    revision: Annotated[
        str | None, opt.option("BRANCH", "The branch to publish to (default: main).", PUBLISH)
    ] = None


@opt.with_options
def command(
    options: ConvertOptions,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="SOURCE",
            help="A directory, a GGUF file, a repository `owner/name[@revision]`"
            " (`owner/name:Q4_K_M` for one of its GGUF files), or an alias such as `8b`, which"
            " means Qwen's original here.",
            autocompletion=suggestions.sources,
        ),
    ] = None,
    debug: opt.Debug = False,
) -> None:
    """Quantize a checkpoint, compare the result with it, write a card, and upload it.

    Reads Hugging Face checkpoints in bf16, fp16 and fp32, FP8, AWQ, GPTQ, compressed-tensors,
    bitsandbytes, GGUF, and MLX's own.
    Needs little memory, whatever the model's size. A conversion or an upload that broke off goes
    on when the same command is run again.

    Examples:

        qwen3-mlx convert 8b --recipe 4bit
        qwen3-mlx convert Qwen/Qwen3-30B-A3B-FP8 --out qwen3-30b-6bit --recipe 6bit
        qwen3-mlx convert ./tuned --recipe mixed-4-6 --upload me/tuned-4-6bit
        qwen3-mlx convert 8b --fuse ./my-adapter --out qwen3-8b-mine
        qwen3-mlx convert mlx-community/Qwen3-235B-A22B-4bit --shares 2
    """
    if options.list_recipes:
        from qwen3_mlx.config.recipes import table

        Screen().answer(f"{table()}\n")
        return
    if source is None:
        raise typer.BadParameter("name a SOURCE, or ask for --list", param_hint="SOURCE")
    screen = Screen()
    progress = ProgressLine(screen)
    work = _convert if options.shares is None else _share_out
    try:
        work(source, options, screen, progress)
    finally:
        progress.clear()


def _convert(source: str, options: ConvertOptions, screen: Screen, progress: ProgressLine) -> None:
    from qwen3_mlx.quantize import job as jobs
    from qwen3_mlx.quantize import learned

    def on_progress(stage: str, done: int, total: int) -> None:
        detail = f", {gb(done)} of {gb(total)}" if stage == "convert" else ""
        progress.stage(stage, done, total, detail)

    check_early(options)
    ask_hub(options)
    request = _request(source, options, screen)
    job = jobs.prepare(request, on_progress)
    progress.clear()
    for finding in job.findings:
        screen.note(str(finding))
    if options.dry_run:
        learned.check_run(job, options.learned)
        screen.answer(preview(job, options.upload))
        return
    with says_how_to_go_on(job.target.part, screen, progress):
        way = options.learned
        record = learned.run(job, way, on_progress) if way else jobs.run(job, on_progress)
    progress.clear()
    if request.remote is not None:
        request.remote.close()
    screen.answer(summary(request.out, record))
    if options.upload is not None:
        jobs.check_publishable(record, options.force)
        publish(request.out, options, screen, progress)


def _share_out(
    source: str, options: ConvertOptions, screen: Screen, progress: ProgressLine
) -> None:
    """Write one file per machine; a checkpoint that isn't packed is converted first."""
    assert options.shares is not None
    check_early(options)
    share = conversion_shares.first_share(options.shares, options.attention, options.pipeline)
    if options.upload is not None or options.dry_run:
        raise OptionError(
            "--shares",
            got="--upload" if options.upload else "--dry-run",
            expected="a conversion on this machine",
            hint="convert without --shares first, then share the result out",
        )
    packed = conversion_shares.packed_source(conversion_source.original(source), screen)
    if packed is not None and not options.allow_lossy:
        stem = conversion_source.stem(source)
        out = options.out or Path(f"{stem}-{share.size}-shares")
        conversion_shares.of_packed(packed, out, share, options.force, screen, progress)
        return
    request = _request(source, options, screen)
    conversion_shares.of_conversion(request, share, screen, progress)


def _request(source: str, options: ConvertOptions, screen: Screen) -> ConversionRequest:
    """The conversion that the options describe. Raises `OptionError`, or as `resolve`."""
    import qwen3_mlx.device.backend  # noqa: F401

    import mlx.core as mx

    from qwen3_mlx.quantize import learned
    from qwen3_mlx.quantize.job import ConversionRequest

    if options.dtype not in (None, *DTYPES):
        raise OptionError("--dtype", got=shown(options.dtype), expected=", ".join(DTYPES))
    if not 0 < options.shard_size <= MOST_SHARD_GB:
        expected = f"a number of GB above 0, at most {MOST_SHARD_GB:,.0f}"
        hint = "the usual size: --shard-size 5"
        raise OptionError("--shard-size", got=options.shard_size, expected=expected, hint=hint)
    learned.check(options.learned)
    if options.fuse is not None and options.learned is not None:
        hint = "fuse into bf16 first (--recipe bf16), then tune the packing of the result"
        raise OptionError("--fuse and --learned", got="both", expected="one", hint=hint)
    recipe = _recipe(options.recipe, options.target)
    name = conversion_source.original(source)
    out = options.out or Path(f"{conversion_source.stem(name)}-{recipe.name}")
    # A recipe with a target and learned packing both read the source more than once.
    once = recipe.target is None and options.learned is None and not options.keep_source
    remote = conversion_source.remote(name, out, screen) if once and not options.dry_run else None
    directory = (
        remote.directory if remote else conversion_source.find(name, options.dry_run, screen)
    )
    return ConversionRequest(
        source=directory,
        name=name,
        out=out,
        recipe=recipe,
        command=_command(name, directory, out, options),
        title=options.upload or "",
        dtype=getattr(mx, options.dtype) if options.dtype else None,
        allow_lossy=options.allow_lossy,
        force=options.force,
        verify=options.verify,
        shard_bytes=int(options.shard_size * 1e9),
        adapter=options.fuse,
        remote=remote,
    )


def _recipe(name: str, target: float | None) -> Recipe:
    from qwen3_mlx.config import recipes
    from qwen3_mlx.quantize import recipe_file

    recipe = recipe_file.read(Path(name)) if name.endswith(".toml") else recipes.find(name)
    if target is None:
        return recipe
    if recipe.target is None:
        hint = "--target goes with --recipe dynamic, or a recipe file with a target"
        raise OptionError(f"recipe {recipe.name} has no target", hint=hint)
    if not 2 <= target <= 16:
        raise OptionError("--target", got=target, expected="bits a weight, 2 to 16")
    return replace(recipe, target=target)


def _command(name: str, directory: Path, out: Path, options: ConvertOptions) -> str:
    """The command line that reproduces the output, for the card."""
    from qwen3_mlx.quantize.origin import origin_of, public_name

    origin = origin_of(directory, name)
    source = f"{origin.repo}@{origin.revision}" if origin.repo else origin.name
    words = ["qwen3-mlx", "convert", source, "--out", out.name, "--recipe", options.recipe]
    for name, value in (
        ("target", options.target),
        ("dtype", options.dtype),
        ("learned", options.learned),
        ("fuse", options.fuse and public_name(options.fuse)),
    ):
        words += [] if value is None else [f"--{name}", str(value)]
    if options.shard_size != SHARD_GB:
        words += ["--shard-size", f"{options.shard_size:g}"]
    return shlex.join(words + ["--allow-lossy"] * options.allow_lossy)
