"""Compares a conversion's result with its source on a short text in ten languages and some code.

It measures the KL divergence of the next-token distributions (nats per token), how often the most
likely tokens agree, and both perplexities. Both models run layer by layer, so neither must fit into
memory. Then the ordinary loader must compute the same logits for the first tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import qwen3_mlx.device.backend as backend

import mlx.core as mx

from qwen3_mlx.checkpoint.headers import checkpoint_tensors
from qwen3_mlx.checkpoint.load import load_network
from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.config.matrices import parameters, weight_shapes
from qwen3_mlx.errors import CheckpointError, Qwen3Error
from qwen3_mlx.fit.inequality import fit, weights_from_headers
from qwen3_mlx.fit.machine import this_machine
from qwen3_mlx.quantize import layer_by_layer
from qwen3_mlx.quantize.divergence import Divergence
from qwen3_mlx.quantize.formats import Source, open_source
from qwen3_mlx.quantize.pack import bounded_cache
from qwen3_mlx.quantize.source_pass import SourcePass

TEXT = Path(__file__).with_name("verify.txt")
MAX_TOKENS = 1024
RANDOM_TOKENS = 256
SMALL = 50_000_000
"""Parameters up to which a CPU compares over the whole text."""
CPU_TOKENS, PLAIN_CPU_TOKENS = 32, 4
"""Tokens for larger networks on a CPU, with an optimized BLAS and without: the comparison then
takes two to three times as long as the conversion, not a hundred times."""
LOADED_TOKENS, CPU_LOADED_TOKENS = 8, 2
"""Tokens for the ordinary loader's network; the second for larger networks on a CPU."""
SMALL_LAYER = 800 * 10**6
"""Bytes of a dense layer up to which source and result are computed at the same time."""
_CACHE = 64 * 2**20
"""Limit of MLX's cache in bytes while blocks of logits are computed."""
_TOLERANCE = {mx.float32: 1e-6, mx.float16: 1e-3, mx.bfloat16: 1e-2}
"""Allowed normalised mean squared error between the two computations of the logits: the rounding
of activations over all layers."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The measurements. NaN means that the result is broken, and exceeds every bound."""

    tokens: int
    text: str
    """A description of the tokens."""
    kl_mean: float
    kl_max: float
    agreement: float
    """Share of positions at which both have the same most likely token."""
    perplexity_source: float
    perplexity_result: float
    loaded: bool
    """Whether the ordinary loader was checked too; False if the model doesn't fit into memory."""

    def within(self, bound: float) -> bool:
        """Whether the divergence is at most `bound`."""
        return self.kl_mean <= bound and math.isfinite(self.perplexity_result)

    def as_dict(self) -> dict[str, Any]:
        """The fields for JSON, with four digits so that records don't depend on rounding."""
        return {k: _round(v) if isinstance(v, float) else v for k, v in asdict(self).items()}


def _round(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None


def compare(
    source: Source,
    result: Path,
    on_progress: Progress | None = None,
    beside: SourcePass | None = None,
) -> Comparison:
    """Compare the checkpoint in `result` with `source`.

    on_progress: called with (layers done, total layers). beside: has computed the source's forward
    pass. Raises as opening and loading, and `CheckpointError` if the loader's logits differ.
    """
    ids, text = token_ids(source)
    some = _token_limits(source.config)[1]
    opened, layers = open_source(result), source.config.num_hidden_layers

    def tick(done: int) -> None:
        if on_progress is not None:
            on_progress(done, 2 * layers)

    if beside is None and backend.device() == "cpu" and _layer_bytes(source.config) <= SMALL_LAYER:
        want, got = layer_by_layer.side_by_side(source, opened, ids, lambda done: tick(2 * done))
    else:
        want = beside.states() if beside else layer_by_layer.hidden_states(source, ids, tick)
        got = layer_by_layer.hidden_states(opened, ids, lambda layer: tick(layers + layer))
    sums = Divergence(mx.array([*ids[1:], ids[-1]]))
    first = []
    both = enumerate(((source, want), (opened, got)))
    blocks = [layer_by_layer.logits_blocks(*one, number) for number, one in both]
    with bounded_cache(_CACHE):
        for z, w in zip(*blocks, strict=True):
            sums.add(z, w)
            first.append(mx.add(w[:some], 0))  # a copy: a slice would keep the whole block alive
            mx.eval(first[-1])
    loaded = _check_loader(result, ids[:some], mx.concatenate(first, axis=-1))
    return _comparison(sums, len(ids), text, loaded)


def _layer_bytes(config: Qwen3Config) -> int:
    """Bytes of the largest layer, dense in float32."""
    layers = [0] * config.num_hidden_layers
    for path, shape in weight_shapes(config):
        if path.startswith("model.layers."):
            layers[int(path.split(".")[2])] += 4 * math.prod(shape)
    return max(layers)


def _comparison(sums: Divergence, tokens: int, text: str, loaded: bool) -> Comparison:
    kl = mx.maximum(sums.kl(), 0)  # rounding may make it slightly negative
    # The last position has no target.
    entropies = [float(side.loss()[:-1].mean()) for side in (sums.source, sums.result)]
    return Comparison(
        tokens=tokens,
        text=text,
        kl_mean=float(kl.mean()),
        kl_max=float(kl.max()),
        agreement=float(sums.agree().astype(mx.float32).mean()),
        perplexity_source=_exp(entropies[0]),
        perplexity_result=_exp(entropies[1]),
        loaded=loaded,
    )


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def token_ids(source: Source) -> tuple[list[int], str]:
    """The ids of the bundled text and its description; pseudo-random ids without a tokenizer."""
    from qwen3_mlx.text import Tokenizer

    limit = min(_token_limits(source.config)[0], source.config.context)
    try:
        tokenizer = Tokenizer.from_dir(source.directory)
        ids = tokenizer.encode(TEXT.read_text("utf-8"))[:limit]
    except Qwen3Error:
        ids = []
    if ids and max(ids) < source.config.vocab_size:
        return ids, "the bundled text (ten languages and code)"
    value, ids = 1, []
    for _ in range(min(RANDOM_TOKENS, limit)):
        value = (value * 6364136223846793005 + 1442695040888963407) % 2**64  # Knuth's MMIX
        ids.append((value >> 33) % source.config.vocab_size)
    return ids, "pseudo-random token ids, as the source has no usable tokenizer"


def _token_limits(config: Qwen3Config) -> tuple[int, int]:
    """The number of tokens to compare, and for the loader's check; a slow CPU gets fewer."""
    if backend.device() != "cpu" or parameters(config) <= SMALL:
        return MAX_TOKENS, LOADED_TOKENS
    return (CPU_TOKENS if backend.BLAS else PLAIN_CPU_TOKENS), CPU_LOADED_TOKENS


def _check_loader(result: Path, ids: list[int], want: mx.array) -> bool:
    """Load the result normally and compare its logits with `want`; False if it doesn't fit.

    Raises `CheckpointError` if they differ.
    """
    weights = weights_from_headers(checkpoint_tensors(result).values())
    config = Qwen3Config.from_dir(result)
    if not fit(config, weights, this_machine(), len(ids)).fits:
        return False
    network, _ = load_network(result)
    hidden = network.model(mx.array([ids]))[0]
    headless = not network.has_head
    got = network.model.embed_tokens.as_linear(hidden) if headless else network.head(hidden)
    error = float(((got - want) ** 2).sum() / (want**2).sum())
    allowed = _TOLERANCE[got.dtype]
    if not error <= allowed:
        raise CheckpointError(
            "the loader computes something else than was written",
            got=f"a normalised squared error of {error:.2g}",
            expected=f"at most {allowed:.2g}",
            hint="please report this with the source's config.json",
        )
    return True
