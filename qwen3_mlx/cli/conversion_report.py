"""The texts that `convert` prints: a dry run's plan, and the result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen3_mlx.errors import gb

if TYPE_CHECKING:
    from qwen3_mlx.quantize.job import Conversion


def preview(job: Conversion, repo: str | None) -> str:
    """The files that would be written with their sizes, and the card."""
    plan, sizes = job.plan, job.plan.files()
    text = job.card(None)
    sizes |= {"README.md": len(text.encode())}
    width = max(len(name) for name in sizes)
    lines = [f"{name:<{width}}  {size:>15,}" for name, size in sizes.items()]
    where = job.request.out if repo is None else f"{job.request.out}, then {repo}"
    total = f"{gb(sum(sizes.values()), 2)}, {plan.bits_per_weight:.3f} bits a weight"
    head = f"would write {where}: {total}, and conversion.json with what is measured"
    return "\n".join([head, *lines, "", text])


def summary(out: Path, record: dict[str, Any]) -> str:
    """The result's size and its divergence from the source, in two lines."""
    size = f"{gb(record['weight_bytes'], 2)}, {record['bits_per_weight']:.3f} bits a weight"
    head = f"{out}: {size}\n"
    measured, bound = record["measured"], record["recipe"]["bound"]
    if measured is None:
        return f"{head}not compared with the source\n"
    kl, same = measured["kl_mean"], measured["agreement"]
    text = f"KL divergence {kl} nats a token (bound {bound}), same first choice {same:.1%}"
    pair = f"{measured['perplexity_source']} -> {measured['perplexity_result']}"
    verdict = "" if kl is not None and kl <= bound else "; TOO FAR from the source to publish"
    return f"{head}compared with the source: {text}, perplexity {pair}{verdict}\n"
