"""What make_network.py asserts of each golden: that it is hard to get right by accident."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

PARAMETER = 1e-8  # NMSE that 1 % of noise in any one tensor must cost (the tests' bound is 1e-9)
NUMBER = 1e-6  # NMSE that any wrong number of the config must cost (the tests' mutants' bound)
FEWEST = 4  # tokens that every expert of every layer must see


@torch.no_grad()
def routing_margin(model: torch.nn.Module, tokens: np.ndarray) -> float:
    """Return the smallest gap of router logits between the last expert taken and the next.

    Infinite for a dense network or where all experts are taken; -1 where an expert is hardly used.
    """
    margins = [np.inf]
    uses: list[int] = []

    def look(gate: Any, _: Any, out: Any) -> None:
        ranked = out[0].sort(dim=-1, descending=True).values
        if gate.top_k < gate.num_experts:
            margins.append(float((ranked[:, gate.top_k - 1] - ranked[:, gate.top_k]).min()))
        uses.extend(torch.bincount(out[2].flatten(), minlength=gate.num_experts).tolist())

    hooks = [m.register_forward_hook(look) for m in model.modules() if hasattr(m, "top_k")]
    model(torch.from_numpy(tokens), use_cache=False)
    for hook in hooks:
        hook.remove()
    return -1.0 if uses and min(uses) < FEWEST else min(margins)


def sensitivity(model: torch.nn.Module, tokens: np.ndarray, want: np.ndarray) -> str:
    """Fail unless every tensor and every number of the config moves the logits.

    Returns what matters least, and the NMSE it is worth.
    """
    found: dict[str, float] = {}
    for name, change in (*tensor_changes(model), *number_changes(model)):
        with change():
            got = forward(model, tokens)
        found[name] = float(np.sum((got - want) ** 2) / np.sum(want**2))
        limit = PARAMETER if name.endswith(("weight", "_proj", "gate", "up")) else NUMBER
        assert found[name] >= limit, f"{name} hardly matters: {found[name]:.1e}"
    assert np.array_equal(forward(model, tokens), want), "a change was not undone"
    weakest = min(found, key=lambda n: found[n])
    return f"{found[weakest]:.0e} {weakest}"


@torch.no_grad()
def forward(model: torch.nn.Module, tokens: np.ndarray) -> np.ndarray:
    """Return logits [B, L, V]."""
    return model(torch.from_numpy(tokens), use_cache=False).logits.numpy()


Changes = Iterator[tuple[str, Callable[[], Any]]]


def tensor_changes(model: torch.nn.Module) -> Changes:
    """Yield 1 % of noise for each tensor; fused gate and up count as two, experts each alone."""
    for name, p in model.named_parameters():
        if p.dim() < 3:
            yield name, noisy(p, slice(None))
            continue
        for e in range(p.shape[0]):
            if "gate_up" not in name:
                yield f"{name}.{e}.down_proj", noisy(p, e)
                continue
            half = p.shape[1] // 2
            yield f"{name}.{e}.gate", noisy(p, (e, slice(half)))
            yield f"{name}.{e}.up", noisy(p, (e, slice(half, None)))


def number_changes(model: torch.nn.Module) -> Changes:
    """Yield a wrong eps for each norm by itself, theta, YaRN and the router's flags."""
    for name, m in model.named_modules():
        if hasattr(m, "variance_epsilon"):
            yield f"{name} eps", attribute(m, "variance_epsilon", m.variance_epsilon * 10)
        if hasattr(m, "norm_topk_prob") and m.top_k < m.num_experts:
            yield f"{name} norm_topk_prob", attribute(m, "norm_topk_prob", not m.norm_topk_prob)
        if hasattr(m, "inv_freq"):
            yield from rope_changes(m)


def rope_changes(rope: Any) -> Changes:
    """Yield another theta, YaRN without its interpolation, and YaRN without its factor."""
    parameters = rope.config.rope_parameters
    dim, theta = 2 * rope.inv_freq.numel(), parameters["rope_theta"]
    exponents = torch.arange(0, dim, 2).float() / dim
    yield "rope_theta", attribute(rope, "inv_freq", rope.inv_freq * 10**-exponents)
    if parameters["rope_type"] == "yarn":
        yield "yarn interpolation", attribute(rope, "inv_freq", theta**-exponents)
        yield "yarn attention factor", attribute(rope, "attention_scaling", 1.0)


def noisy(p: torch.Tensor, where: Any) -> Callable[[], Any]:
    """Return a context in which part of a tensor carries 1 % of noise."""

    @contextmanager
    def change() -> Iterator[None]:
        saved = p.detach().clone()
        noise = torch.randn(p[where].shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            p[where] *= 1 + 0.01 * noise
        yield
        with torch.no_grad():
            p.copy_(saved)

    return change


def attribute(owner: Any, name: str, value: Any) -> Callable[[], Any]:
    """Return a context in which an attribute has another value."""

    @contextmanager
    def change() -> Iterator[None]:
        saved = getattr(owner, name)
        setattr(owner, name, value)
        yield
        setattr(owner, name, saved)

    return change
