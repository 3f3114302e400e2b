"""``qwen3-mlx follow``: the command that `launch` starts on the other machines."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from qwen3_mlx.cli import options as opt
from qwen3_mlx.errors import OptionError
from qwen3_mlx.files import read_small


def command(
    group: Annotated[
        Path | None, opt.option("FILE", "The group's file; `-` reads it from standard input.")
    ] = None,
    rank: Annotated[int, opt.option("N", "Which of its machines this is.", min=1)] = 1,
    debug: opt.Debug = False,
) -> None:
    """Follow the machine that runs `launch`; it starts this by ssh.

    Examples:

        qwen3-mlx follow --group group.json --rank 1
    """
    from qwen3_mlx.group import start
    from qwen3_mlx.group.plan import current, read_plan

    found = current()
    if group is None and found is not None:  # the child that a watching `follow` has started
        from qwen3_mlx.group.follow import follow

        follow(*found)
        return
    if group is None:
        raise OptionError("--group is missing", hint="run qwen3-mlx launch on the first machine")
    launched = str(group) == "-"
    text = sys.stdin.readline() if launched else read_small(group)
    plan = read_plan(text)
    if rank >= plan.size:
        raise OptionError("--rank", got=rank, expected=f"1 to {plan.size - 1}")
    raise typer.Exit(start.follow(plan, rank, launched))
