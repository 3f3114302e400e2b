"""``qwen3-mlx models``: lists the models on this machine, their sizes, and whether they fit.

It reads only config.json and the safetensors headers: no weights, no MLX, no network.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwen3_mlx.cli import options as opt
from qwen3_mlx.cli.terminal.numbers import EVERYDAY_CONTEXT, parameters, short
from qwen3_mlx.cli.terminal.screen import Screen, printable
from qwen3_mlx.errors import ModelNotFoundError, OptionError, Qwen3Error, gb
from qwen3_mlx.files import expanded

if TYPE_CHECKING:
    from qwen3_mlx.config import Qwen3Config
    from qwen3_mlx.fit.inequality import Fit, Weights
    from qwen3_mlx.fit.machine import Machine
    from qwen3_mlx.hub.installed import Found
    from qwen3_mlx.hub.kinds import Kind


@dataclass(frozen=True)
class Row:
    """A model and the facts from its headers; `problem` says why they can't be read."""

    model: Found
    local: bool
    disk_bytes: int
    problem: str = ""
    config: Qwen3Config | None = None
    weights: Weights | None = None
    fit: Fit | None = None
    longest: int = 0
    """Tokens of the longest native context that fits."""

    @property
    def kind(self) -> Kind:
        """``chat``, ``embedder`` or ``reranker``."""
        from qwen3_mlx.hub import kinds

        named = kinds.of_name(self.model.repo)
        return kinds.of_directory(self.model.path) if self.local else named

    @property
    def bundled(self) -> bool:
        """Whether the model is one of the package's demos."""
        from qwen3_mlx.hub import resolve as hub

        return (self.model.name, self.model.path) in hub.bundled()


def command(
    directories: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[DIR]...",
            help="Look here too: a model's directory, or one that holds such directories.",
        ),
    ] = None,
    everything: Annotated[bool, opt.flag("--all", "Also the released models not here.")] = False,
    context: Annotated[
        int | None, opt.option("N", "Tokens of context to have room for (default: 4096).")
    ] = None,
    memory: opt.Memory = None,
    as_json: opt.Json = False,
    debug: opt.Debug = False,
) -> None:
    """List the models on this machine: size, bits a weight, parameters, context, and fit.

    The bundled demos, Qwen3 in the hub's cache, and what lies in DIR, GGUF files too. What can't be
    used is listed with the reason. Reads headers only, and asks nobody.

    Examples:

        qwen3-mlx models
        qwen3-mlx models ~/.lmstudio/models --context 32768
        qwen3-mlx models --all --memory 24
    """
    raise typer.Exit(run(directories or [], everything, context, memory, as_json))


def run(
    folders: list[Path],
    everything: bool,
    context: int | None,
    gigabytes: float | None,
    as_json: bool,
) -> int:
    """Print the list; returns the exit code."""
    from qwen3_mlx.fit import machine
    from qwen3_mlx.hub import installed as local

    if context is not None and context < 1:
        raise OptionError("context", got=context, expected="1 or more tokens")
    place = machine.quick_machine() if gigabytes is None else machine.mac(gigabytes)
    found = local.everything()
    for folder in map(expanded, folders):
        if not folder.is_dir():
            hint = "give a directory that holds models"
            raise ModelNotFoundError("no such directory", got=str(folder), hint=hint)
        found += local.in_directory(folder)
    rows = [_look(model, place, context) for model in found]
    if everything:
        installed = {model.repo for model in found if not model.problem}
        rows += _not_installed(installed, place, context)
    screen = Screen()
    if as_json:
        screen.json(_as_json(rows, place))
    else:
        for line in lines(rows, place):
            screen.answer(f"{printable(line)}\n")
    return 0


def _look(model: Found, place: Machine, context: int | None) -> Row:
    """The row of an installed model, from its config.json and headers."""
    size = _disk_bytes(model.path)
    if model.problem:
        return Row(model, True, size, model.problem)
    from qwen3_mlx.checkpoint.headers import checkpoint_tensors
    from qwen3_mlx.config import Qwen3Config
    from qwen3_mlx.fit import inequality as memory

    try:
        config = Qwen3Config.from_dir(model.path)
        weights = memory.weights_from_headers(checkpoint_tensors(model.path).values())
        return _with_fit(model, True, size, config, weights, place, context)
    except Qwen3Error as error:
        hint = f" ({error.hint})" if error.hint else ""
        return Row(model, True, size, f"{error.summary}{hint}")


def _not_installed(installed: set[str], place: Machine, context: int | None) -> Iterator[Row]:
    """Rows of the released models that aren't installed, computed from their shapes."""
    from qwen3_mlx.config import Qwen3Config
    from qwen3_mlx.fit import inequality as memory
    from qwen3_mlx.hub import releases
    from qwen3_mlx.hub.installed import Found

    for release in (*releases.RELEASES, *releases.RETRIEVAL):
        if release.repo in installed:
            continue
        config = Qwen3Config.from_dict(release.config())
        weights = memory.weights_from_config(config)
        size, model = weights.stored_bytes, Found(release.alias, Path(), repo=release.repo)
        try:
            yield _with_fit(model, False, size, config, weights, place, context)
        except Qwen3Error as error:  # a context beyond YaRN's reach
            yield Row(model, False, size, error.summary)


def _with_fit(
    model: Found,
    local: bool,
    size: int,
    config: Qwen3Config,
    weights: Weights,
    place: Machine,
    context: int | None,
) -> Row:
    from qwen3_mlx.fit import inequality as memory

    tokens = min(EVERYDAY_CONTEXT, config.context) if context is None else context
    if context is not None:
        config = config.for_context(context)
    fit = memory.fit(config, weights, place, tokens)
    longest = memory.largest_context(config, weights, place)
    return Row(model, local, size, "", config, weights, fit, longest)


def _disk_bytes(folder: Path) -> int:
    """Bytes of all files below `folder`; links are followed, every file is counted once."""
    if folder.is_file():
        return folder.stat().st_size
    sizes: dict[tuple[int, int], int] = {}
    for base, _, names in os.walk(folder):
        for name in names:
            try:
                status = os.stat(os.path.join(base, name))  # noqa: PTH116, PTH118 (thousands)
            except OSError:
                continue
            sizes[status.st_dev, status.st_ino] = status.st_size
    return sum(sizes.values())


def lines(rows: list[Row], place: Machine) -> Iterator[str]:
    """The list as a text table."""
    table: list[tuple[str, ...]] = [("MODEL", "SIZE", "BITS", "PARAMETERS", "CONTEXT", "")]
    table += [_cells(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    has_remote = False
    for row, cells in zip([None, *rows], table, strict=True):
        if row is not None and not row.local and not has_remote:
            has_remote = True
            yield "\nto be downloaded with `qwen3-mlx chat MODEL`:"
        name, *numbers, verdict = cells
        right = (f"{cell:>{width}}" for cell, width in zip(numbers, widths[1:], strict=False))
        yield "  ".join([f"{name:<{widths[0]}}", *right, verdict]).rstrip()
    yield f"\navailable: {gb(place.available_bytes)}, {place.why}"
    if any(row.model.repo and row.model.problem for row in rows):
        yield "what is incomplete is fetched to its end with: qwen3-mlx chat MODEL"
    if not has_remote and all(row.bundled for row in rows):
        yield "no real model is here yet; to get one: qwen3-mlx chat 4b (2.3 GB)"


def _cells(row: Row) -> tuple[str, ...]:
    if row.config is None or row.weights is None or row.fit is None:
        return row.model.name, gb(row.disk_bytes), "", "", "", row.problem
    from qwen3_mlx.config import matrices

    total, active = matrices.parameters(row.config), matrices.active_parameters(row.config)
    count = parameters(total)
    if total != active:
        count += f", {parameters(active)} active"
    bits = f"{8 * row.weights.stored_bytes / total:.1f}"
    context = f"{row.config.native_context:,}"
    return row.model.name, gb(row.disk_bytes), bits, count, context, _verdict(row, row.fit)


def _verdict(row: Row, fit: Fit) -> str:
    kind = "" if row.kind == "chat" else f"{row.kind}; "
    if fit.fits:
        return f"{kind}fits with {short(max(row.longest, fit.context))} of context"
    need, have = gb(fit.required_bytes), gb(fit.available_bytes)
    less = f"; would with {short(row.longest)} of context" if row.longest else ""
    return f"{kind}does not fit: needs {need}, has {have}{less}"


def _as_json(rows: list[Row], place: Machine) -> str:
    record = {
        "available_bytes": place.available_bytes,
        "available": place.why,
        "models": [_record(row) for row in rows],
    }
    return f"{json.dumps(record, ensure_ascii=False)}\n"


def _record(row: Row) -> dict[str, Any]:
    """A model's entry for ``--json``. Sizes in bytes, contexts in tokens."""
    fields: dict[str, Any] = {
        "name": row.model.name,
        "repo": row.model.repo or None,
        "local": row.local,
        "path": str(row.model.path) if row.local else None,
        "disk_bytes": row.disk_bytes,
        "problem": row.problem or None,
    }
    if row.config is None or row.weights is None or row.fit is None:
        return fields
    from qwen3_mlx.config import matrices

    total, packing = matrices.parameters(row.config), row.config.quantization
    spec = packing.default if packing else None
    return fields | {
        "model_type": row.config.model_type,
        "kind": row.kind,
        "parameters": total,
        "active_parameters": matrices.active_parameters(row.config),
        "weight_bytes": row.weights.stored_bytes,
        "bits_per_weight": round(8 * row.weights.stored_bytes / total, 3),
        "quantization": spec and {"bits": spec.bits, "group_size": spec.group_size},
        "native_context": row.config.native_context,
        "context": row.fit.context,
        "fits": row.fit.fits,
        "required_bytes": row.fit.required_bytes,
        "largest_context": row.longest,
    }
