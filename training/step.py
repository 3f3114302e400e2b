"""One training step: losses, gradients, clipping, AdamW; compiled, with float32 masters."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_map, tree_unflatten

from qwen3_mlx.nn.transformer import Qwen3Network
from training.experts import Routing, load_balance, run_blocks
from training.recipe import Optimizer

Tree = Any
"""Nested dicts and lists of arrays, as `Module.parameters` gives them."""


def flat(tree: Tree) -> dict[str, mx.array]:
    """The arrays of a tree by dotted name."""
    return dict(tree_flatten(tree))


def initialise(network: Qwen3Network, seed: int) -> Tree:
    """Fresh float32 parameters: MLX's own draws, what writes to the residual stream scaled down."""
    mx.random.seed(seed)
    shrink = 1 / math.sqrt(2 * len(network.layers))
    drawn = []
    for name, value in flat(network.parameters()).items():
        if value.ndim < 2:
            fresh = mx.ones(value.shape)
        else:
            fresh = mx.random.normal(value.shape) * (1 / math.sqrt(value.shape[-1]))
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            fresh = fresh * shrink
        drawn.append((name, fresh))
    return tree_unflatten(drawn)


def adamw(settings: Optimizer) -> optim.MultiOptimizer:
    """AdamW whose weight decay spares the norms."""
    betas = list(settings.betas)
    decaying = optim.AdamW(0.0, betas, weight_decay=settings.weight_decay, bias_correction=True)
    plain = optim.AdamW(0.0, betas, weight_decay=0.0, bias_correction=True)
    return optim.MultiOptimizer([decaying, plain], [lambda _, value: value.ndim >= 2])


def masked_loss(
    network: Qwen3Network,
    embedding: mx.array,
    tokens: mx.array,
    mask: mx.array,
    compute: mx.Dtype,
    seen: list[Routing],
) -> mx.array:
    """Mean cross-entropy in float32 over the targets with mask 1; ``tokens, mask [B, L + 1]``.

    What the routers did, layer by layer, is added to `seen`.

    Tokens are looked up in the float32 master `embedding`, so that the gradients of frequent tokens
    are summed in float32: thousands of bfloat16 terms would swallow each other.
    """
    x = run_blocks(network.layers, embedding[tokens[:, :-1]].astype(compute), seen)
    logits = network.head(network.model.norm(x)).astype(mx.float32)
    target = mx.take_along_axis(logits, tokens[:, 1:, None], axis=-1).squeeze(-1)
    learnt = mask[:, 1:].astype(mx.float32)
    losses = (mx.logsumexp(logits, axis=-1) - target) * learnt
    return losses.sum() / mx.maximum(learnt.sum(), 1)


Losses = tuple[mx.array, mx.array, mx.array]
"""Cross-entropy, norm of the gradient, and load-balancing loss (0 without experts)."""


@dataclass
class Trainer:
    """Parameters, optimizer state, and the compiled step that changes both."""

    network: Qwen3Network
    settings: Optimizer
    parameters: Tree
    compute: mx.Dtype
    balance: float = 0.0
    """The coefficient of the load-balancing loss."""
    optimizer: optim.MultiOptimizer = field(init=False)
    _held: dict[str, Tree] = field(init=False)
    _step: Callable[..., Losses] = field(init=False)

    def __post_init__(self) -> None:
        self.optimizer = adamw(self.settings)
        self.optimizer.init(self.parameters)
        self._held = {"parameters": self.parameters, "optimizer": self.optimizer.state}
        self._step = mx.compile(self._eager, inputs=self._held, outputs=self._held)

    def _eager(self, tokens: mx.array, mask: mx.array, rate: mx.array) -> Losses:
        def losses(parameters: Tree) -> Losses:
            self.network.update(tree_map(lambda p: p.astype(self.compute), parameters))
            embedding = parameters["model"]["embed_tokens"]["weight"]
            seen: list[Routing] = []
            written = masked_loss(self.network, embedding, tokens, mask, self.compute, seen)
            balance = load_balance(seen)
            return written + self.balance * balance, written, balance

        parameters = self._held["parameters"]
        (_, written, balance), gradients = mx.value_and_grad(losses)(parameters)
        norm = mx.sqrt(mx.stack([mx.square(g).sum() for g in flat(gradients).values()]).sum())
        scale = mx.minimum(1.0, self.settings.clip / (norm + 1e-6))
        sound = mx.isfinite(norm)  # a step that overflowed is not taken
        gradients = tree_map(lambda g: mx.where(sound, g * scale, 0.0), gradients)
        for optimizer in self.optimizer.optimizers:
            optimizer.learning_rate = rate
        self._held["parameters"] = self.optimizer.apply_gradients(gradients, parameters)
        self._held["optimizer"] = self.optimizer.state
        return written, norm, balance

    def step(self, tokens: mx.array, mask: mx.array, rate: float) -> Losses:
        """Take one step; MLX still computes the arrays it returns."""
        result = self._step(tokens, mask, mx.array(rate))
        mx.async_eval(result, self._held)
        return result

    def weights(self, dtype: mx.Dtype) -> dict[str, mx.array]:
        """The current parameters by name."""
        return {n: v.astype(dtype) for n, v in flat(self._held["parameters"]).items()}

    def load_into(self, network: Qwen3Network, dtype: mx.Dtype) -> None:
        """Give `network` the current parameters."""
        network.update(tree_unflatten(list(self.weights(dtype).items())))

    def state(self) -> dict[str, mx.array]:
        """Everything that a resumed run needs, flat."""
        return flat(self._held)

    def restore(self, state: dict[str, mx.array]) -> None:
        """Continue from what `state` returned."""
        held = tree_unflatten(list(state.items()))
        self.optimizer.state = held["optimizer"]
        self._held.update(parameters=held["parameters"], optimizer=self.optimizer.state)
