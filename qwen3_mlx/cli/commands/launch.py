"""``qwen3-mlx launch``: runs a command on several machines that share one model."""

from __future__ import annotations

import secrets
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from qwen3_mlx.cli import options as opt
from qwen3_mlx.config import share
from qwen3_mlx.errors import OptionError

CONTEXT = {"allow_extra_args": True, "ignore_unknown_options": True}
RUNS = ("chat", "generate", "bench", "doctor")


def command(
    context: typer.Context,
    hosts: Annotated[
        str, opt.option("A,B,…", "The machines, this one first, as the others reach them.")
    ] = "",
    backend: Annotated[
        str, opt.option("NAME", "What carries the sums: `ring`, `jaccl` or `nccl`.")
    ] = "ring",
    rdma: Annotated[
        Path | None,
        opt.option("FILE", "Of JACCL: the hostfile that MLX wrote, mlx.distributed_config."),
    ] = None,
    attention: Annotated[
        str,
        opt.option("HOW", "Either split or whole, which takes more memory and half the sums."),
    ] = "split",
    pipeline: Annotated[
        bool,
        opt.flag("--pipeline", "Whole layers a machine: any number of them, for slow links."),
    ] = False,
    port: Annotated[int, opt.option("N", "The first of the ports.", min=0, max=65_000)] = 0,
    debug: opt.Debug = False,
) -> None:
    """Run over several machines: `chat`, `generate`, `bench`, `doctor`, or a Python program.

    What follows the options is run here, and the other machines follow, started by ssh. A model
    must lie on each of them already. docs/machines.md goes through it step by step.

    Examples:

        qwen3-mlx launch --hosts mac-1.local,mac-2.local chat 235b-a22b
        qwen3-mlx launch --hosts a.local,b.local,c.local --pipeline chat 235b-a22b
        qwen3-mlx launch --hosts localhost,localhost generate demo "What is 17 * 23?"
    """
    from qwen3_mlx.group import start
    from qwen3_mlx.group.plan import new_plan, read_rdma

    arguments = _checked(list(context.args))
    own = share.from_options(0, 1, attention, pipeline)
    names = [name.strip() for name in hosts.split(",") if name.strip()]
    plan = new_plan(
        names,
        secrets.token_hex(16),
        backend=backend,
        attention=own.attention,
        pipeline=own.pipeline,
        port=port,
    )
    if backend == "jaccl":
        plan = read_rdma(plan, rdma)
    with tempfile.TemporaryDirectory(prefix="qwen3-mlx-") as folder:
        code = start.run(plan, arguments, Path(folder))
    raise typer.Exit(code)


def _checked(arguments: list[str]) -> list[str]:
    """The command line to run. Raises `OptionError` if it is none that a group can run."""
    first = arguments[0] if arguments else "nothing"
    program = first.endswith(".py")
    if not program and first not in RUNS:
        expected = f"{', '.join(RUNS)} or a .py file, behind the options"
        raise OptionError("what to launch", got=first, expected=expected)
    if program and not Path(first).is_file():
        raise OptionError("what to launch", got=f"{first}, which isn't there")
    return arguments
