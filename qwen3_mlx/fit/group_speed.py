"""Predicts the decode rate of a model that is split among machines.

    seconds a token = bytes read / bandwidth + layers · host + sums · latency

In a pipeline the machines compute one after another: all bytes are read, and each machine adds a
hop instead of sums. Checks of the equation: two H200 (60 µs per layer, 20 to 30 µs per sum) decoded
257 tokens/s of 8B (predicted 255) and 101 of 235B-A22B (106). Published rates of 235B in 8 bits on
one, two and four M3 Ultra are 19.5, 26.2 and 31.9; predicted 19.8 (which sets the time per layer),
25.7 and 31.2. No pipeline has been measured yet.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.config.matrices import weight_shapes
from qwen3_mlx.config.share import Share
from qwen3_mlx.errors import OptionError, shown

MAC_LAYER_S = 240e-6
"""Seconds of host work and launches per layer of a large Mixture of Experts on an M3 Ultra: 51 ms
per token of 235B-A22B in 8 bits, minus the time of reading its bytes."""
ULTRA_FROM_GB = 192
"""Memory in GB from which a Mac is assumed to be an Ultra."""
MAX_BANDWIDTH, ULTRA_BANDWIDTH = 546e9, 819e9
"""Memory bandwidth in bytes/s of an M4 Max and an M3 Ultra."""


@dataclass(frozen=True, slots=True)
class Link:
    """A connection between machines; `sum_s` is the seconds of one token's all-reduce."""

    name: str
    sum_s: float
    hop: float | None = None
    """Seconds from one machine to the next; None: the upper bound `sum_s`."""

    @property
    def hop_s(self) -> float:
        """Seconds to send a token's hidden state to the next machine."""
        return self.sum_s if self.hop is None else self.hop


JACCL, TCP = Link("Thunderbolt 5 with JACCL", 10e-6), Link("TCP, the ring", 300e-6)


@dataclass(frozen=True, slots=True)
class Place:
    """One of the machines: its bandwidth in bytes/s, and its host's seconds per layer."""

    bandwidth: float
    layer_s: float


def mac(gigabytes: float) -> Place:
    """A Mac with `gigabytes` of memory."""
    ultra = gigabytes >= ULTRA_FROM_GB
    return Place(ULTRA_BANDWIDTH if ultra else MAX_BANDWIDTH, MAC_LAYER_S)


def read_machines(text: str) -> tuple[int, float]:
    """``2x128``: two machines of 128 GB. Raises `OptionError`."""
    found = re.fullmatch(r"(\d{1,2})x(\d+(?:\.\d+)?)", text.strip().lower().replace("×", "x"))
    if found is None or not 2 <= int(found[1]) <= 16 or not float(found[2]):
        expected = "such as 2x128: two machines of 128 GB"
        raise OptionError("--machines", got=shown(text), expected=expected)
    return int(found[1]), float(found[2])


def bytes_a_token(config: Qwen3Config) -> float:
    """Bytes of weights read per token, with only the routed experts."""
    total = 0.0
    for path, shape in weight_shapes(config):
        if path == "model.embed_tokens" and not config.tie_word_embeddings:
            continue  # one row
        spec = config.quantization.spec(path) if config.quantization else None
        packed = spec is not None and len(shape) > 1
        item = spec.bits / 8 + 4 / spec.group_size if packed and spec else 2.0
        routed = "switch_mlp" in path
        part = config.num_experts_per_tok / config.num_experts if routed else 1.0
        total += math.prod(shape) * item * part
    return total


def tokens_a_second(whole: Qwen3Config, share: Share, place: Place, link: Link) -> float:
    """Tokens per second at batch 1 and short context. Raises `OptionError` if indivisible."""
    layers = whole.num_hidden_layers
    if share.pipeline and share.size > 1:
        share.config(whole)
        read_s = bytes_a_token(whole) / place.bandwidth
        return 1 / (read_s + layers * place.layer_s + share.size * link.hop_s)
    sums = 0 if share.size == 1 else layers * (2 if share.attention else 1)
    own = share.config(whole)
    return 1 / (bytes_a_token(own) / place.bandwidth + layers * place.layer_s + sums * link.sum_s)
