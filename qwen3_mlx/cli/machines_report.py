"""`info --machines`: whether every machine holds its share, and the computed decode rates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from qwen3_mlx.cli.commands.info import find
from qwen3_mlx.cli.terminal.numbers import EVERYDAY_CONTEXT
from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.config.share import WAYS, Share
from qwen3_mlx.errors import OptionError
from qwen3_mlx.fit import group_speed, inequality, machine
from qwen3_mlx.options import check_context


@dataclass(frozen=True, slots=True)
class Division:
    """One way to divide the model among the machines."""

    share: Share
    fit: inequality.Fit
    rates: dict[str, float]
    """Tokens per second, by the link's name."""


@dataclass(frozen=True, slots=True)
class MachinesReport:
    """A model, the machines, and the possible divisions."""

    where: str
    config: Qwen3Config
    count: int
    gigabytes: float
    ways: tuple[Division, ...]


def gather(name: str, context: int | None, kv_bits: int | None, text: str) -> MachinesReport:
    """Compute the report; `text` is the machines, such as ``2x128``.

    Raises `OptionError` if the machines can't divide the model.
    """
    count, gigabytes = group_speed.read_machines(text)
    where, config, _, _ = find(name)
    check_context(context)
    tokens = min(EVERYDAY_CONTEXT, config.context) if context is None else context
    if context is not None:
        config = config.for_context(context)
    place, links = group_speed.mac(gigabytes), (group_speed.JACCL, group_speed.TCP)
    ways, fault = [], None
    for attention, pipeline in WAYS.values():
        share = Share(0, count, attention, pipeline)
        try:
            fit = _fullest(config, share, machine.mac(gigabytes), tokens, kv_bits)
        except OptionError as error:
            fault = fault or error
            continue
        rates = {x.name: group_speed.tokens_a_second(config, share, place, x) for x in links}
        ways.append(Division(share, fit, rates))
    if not ways and fault is not None:
        raise fault
    return MachinesReport(where, config, count, gigabytes, tuple(ways))


def _fullest(
    config: Qwen3Config, share: Share, place: machine.Machine, tokens: int, kv_bits: int | None
) -> inequality.Fit:
    """The fit of the machine that needs most memory. Raises `OptionError`.

    Only a pipeline gives the machines different shares.
    """
    ranks = [replace(share, rank=rank) for rank in range(share.size if share.pipeline else 1)]
    fits = [
        inequality.fit(
            one.config(config), inequality.weights_of_share(config, one), place, tokens, kv_bits
        )
        for one in ranks
    ]
    return max(fits, key=lambda fit: fit.required_bytes)


def record(found: MachinesReport) -> dict[str, Any]:
    """The object that ``--json`` prints; sizes are bytes per machine."""
    return {
        "where": found.where,
        "machines": found.count,
        "memory_bytes": int(found.gigabytes * 1e9),
        "ways": [
            {
                "way": way.share.way,
                "attention": "split" if way.share.attention and not way.share.pipeline else "whole",
                "fits": way.fit.fits,
                "weight_bytes": way.fit.weight_bytes,
                "required_bytes": way.fit.required_bytes,
                "available_bytes": way.fit.available_bytes,
                "context": way.fit.context,
                "tokens_a_second": {name: round(rate, 1) for name, rate in way.rates.items()},
            }
            for way in found.ways
        ],
    }


def lines(found: MachinesReport) -> Iterator[str]:
    """The report as text."""
    yield found.where
    yield f"{found.count} machines of {found.gigabytes:g} GB; of one of them:"
    for way in found.ways:
        yield ""
        yield f"{way.share.way}: {way.fit.equation}"
        rates = ", ".join(f"{rate:.0f} over {name}" for name, rate in way.rates.items())
        yield f"  tokens a second, computed: {rates}"
    ways = {way.share.way for way in found.ways}
    if missing := [way for way in WAYS if way not in ways]:
        yield ""
        yield f"{found.count} machines can't share it out so: {', '.join(missing)}"
    yield ""
    yield "computed from bytes, layers, sums and hops; no Mac has run it (docs/machines.md)"
