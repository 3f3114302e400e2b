"""``qwen3-mlx convert``: quantize a checkpoint, measure what it cost, write the card, upload."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from qwen3_mlx.cli import options as opt
from qwen3_mlx.cli.settings import suggestions

WORK, PUBLISH = "Conversion", "Publishing"


def _flag(name: str, text: str, panel: str = WORK) -> Any:
    return typer.Option(name, metavar=opt.FLAG, help=text, rich_help_panel=panel)


def _value(metavar: str, text: str, panel: str = WORK, words: Any = None) -> Any:
    return typer.Option(metavar=metavar, help=text, rich_help_panel=panel, autocompletion=words)


Source = Annotated[
    str | None,
    typer.Argument(
        metavar="SOURCE",
        help="A directory, a repository `owner/name[@revision]`, or an alias such as `8b`, which"
        " means Qwen's original here.",
        autocompletion=suggestions.sources,
    ),
]
Out = Annotated[
    Path | None,
    _value("DIR", "Where to write it (default: name and recipe, in this directory)."),
]
Recipe = Annotated[
    str, _value("NAME", "A recipe's name, or a `.toml` file.", words=suggestions.recipes)
]
ListRecipes = Annotated[bool, _flag("--list", "List the recipes and leave.")]
Target = Annotated[
    float | None, _value("BITS", "Bits a weight over all, for the recipe `dynamic`.")
]
Dtype = Annotated[
    str | None,
    _value("TYPE", "What floats are stored in: bfloat16, float16 or float32."),
]
Learned = Annotated[
    str | None,
    _value(
        "METHOD", "Tune the packing with mlx-lm: `dwq` (after converting) or `awq` (in its place)."
    ),
]
AllowLossy = Annotated[bool, _flag("--allow-lossy", "Pack a packed MLX model again.")]
Force = Annotated[bool, _flag("--force", "Replace DIR; publish even above the recipe's bound.")]
Verify = Annotated[bool, _flag("--verify/--no-verify", "Compare the result with SOURCE.")]
ShardSize = Annotated[float, _value("GB", "The largest file.")]
DryRun = Annotated[bool, _flag("--dry-run", "Show every file and the card; write and ask nothing.")]
Upload = Annotated[
    str | None, _value("REPO", "Publish as `owner/name`, with the token in HF_TOKEN.", PUBLISH)
]
Private = Annotated[bool, _flag("--private", "Make REPO private.", PUBLISH)]
Revision = Annotated[
    str | None, _value("BRANCH", "The branch to publish to (default: main).", PUBLISH)
]


def convert(
    source: Source = None,
    out: Out = None,
    recipe: Recipe = "4bit",
    list_recipes: ListRecipes = False,
    target: Target = None,
    dtype: Dtype = None,
    learned: Learned = None,
    allow_lossy: AllowLossy = False,
    force: Force = False,
    verify: Verify = True,
    shard_size: ShardSize = 5.0,
    dry_run: DryRun = False,
    upload: Upload = None,
    private: Private = False,
    revision: Revision = None,
    debug: opt.Debug = False,
) -> None:
    """Quantize a checkpoint, compare the result with it, write a card, and upload it.

    Reads Hugging Face checkpoints in bf16, fp16 and fp32, Qwen's FP8, AWQ, GPTQ, and MLX's own.
    Needs little memory, whatever the model's size. A conversion or an upload that broke off goes
    on when the same command is run again.

    Examples:

        qwen3-mlx convert 8b --recipe 4bit
        qwen3-mlx convert Qwen/Qwen3-30B-A3B-FP8 --out qwen3-30b-6bit --recipe 6bit
        qwen3-mlx convert ./tuned --recipe mixed-4-6 --upload me/tuned-4-6bit
    """
    given = {k: v for k, v in locals().items() if k not in ("list_recipes", "debug")}
    if list_recipes:
        from qwen3_mlx.config.recipes import table

        typer.echo(table())
        raise typer.Exit
    if source is None:
        raise typer.BadParameter("name a SOURCE, or ask for --list", param_hint="SOURCE")
    from qwen3_mlx.cli.commands import conversion

    raise typer.Exit(conversion.run(source, given))
