"""This process's membership in a group, and how the first machine loads a model in one."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from qwen3_mlx.config.share import WHOLE_NETWORK, Share
from qwen3_mlx.errors import BackendError
from qwen3_mlx.group import measure, port, versions
from qwen3_mlx.group.follow import load_share, one_dtype, settings
from qwen3_mlx.group.lead import Lead
from qwen3_mlx.group.line import Message
from qwen3_mlx.group.plan import current
from qwen3_mlx.nn.transformer import Qwen3Network
from qwen3_mlx.options import CacheFormat


def own_share() -> Share:
    """This process's share of a model: the whole, unless it leads a group.

    Raises `BackendError` in a following process.
    """
    found = current()
    if found is None:
        return WHOLE_NETWORK
    plan, rank = found
    if rank:
        hint = "run qwen3-mlx follow there; models are loaded by the first machine"
        raise BackendError("this process follows", got=f"rank {rank}", hint=hint)
    return plan.share(0)


@cache
def _lead() -> Lead:
    """The group, gathered at the first load. Raises `BackendError`."""
    found = current()
    assert found is not None
    if unheard := port.fault(*found):
        raise BackendError(f"{found[0].name(0)} can't join", got=unheard, hint=port.HINT)
    lead = Lead(found[0])
    lead.gather()
    return lead


@cache
def _joined() -> bool:
    _lead().join()
    return True


def measured() -> tuple[int, measure.Speeds]:
    """The number of machines in this group, and its links' speeds. Raises `BackendError`."""
    if own_share().size == 1:
        hint = "qwen3-mlx launch --hosts A,B doctor --group"
        raise BackendError("this process leads no group", hint=hint)
    lead, found = _lead(), list[measure.Speeds]()
    _joined()

    def own() -> Message:
        found.append(measure.speeds(lead.plan.backend, 0, lead.plan.size))
        return {}

    lead.ask({"do": "measure"}, own)
    return lead.plan.size, found[0]


def _require_one_dtype(network: Qwen3Network, replies: dict[int, Message]) -> None:
    """Raise `BackendError` unless all machines compute in the same dtype."""
    own = one_dtype(network)
    for rank, reply in replies.items():
        if (there := reply.get("dtype", own)) != own:
            hint = "qwen3-mlx convert --dtype bfloat16 makes the weights of one type"
            raise BackendError(
                f"machine {rank} computes in another float type", got=there, expected=own, hint=hint
            )


def load_together(
    name: str, path: Path, context: int | None, cache_format: CacheFormat, force: bool
) -> Qwen3Network:
    """Load the network on all machines; returns the first one's share."""
    lead, share = _lead(), own_share()
    found: list[Qwen3Network] = []

    def own() -> Message:
        found.append(load_share(path, share, context, cache_format, force))
        return {}

    replies = lead.ask(
        {
            "do": "load",
            "model": name,
            "digest": versions.digest(path),
            "context": context,
            "cache_format": settings(cache_format),
            "force": force,
        },
        own,
    )
    _joined()
    network = found[0]
    if share.pipeline:
        _require_one_dtype(network, replies)
    network.model.lead = lead
    return network
