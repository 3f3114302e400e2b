"""Tokens a second of a model shared out over machines, on paper: bytes, layers, and sums.

    seconds a token = bytes read / bandwidth + layers · host + sums · latency

In a pipeline the machines compute one after another: all bytes are read, and in place of sums there
is a hop from machine to machine, as many as machines. The first equation gives what was read: two
H200 (60 µs a layer, 20 to 30 µs a sum) wrote 257 tokens a second of 8B where this says 255, and 101
of 235B-A22B where it says 106. Others read 235B in 8 bits on one, two and four M3 Ultra: 19.5, 26.2
and 31.9; this says 19.8, from which the time of a layer is taken, and then 25.7 and 31.2. Nobody
has read a pipeline yet.
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
"""What MLX's host and launches take a layer of a large Mixture of Experts on an M3 Ultra: what is
left of 51 ms a token of 235B-A22B in 8 bits, the bytes' time taken off."""
ULTRA_FROM_GB = 192
"""Memory from which a Mac is taken for an Ultra."""
MAX_BANDWIDTH, ULTRA_BANDWIDTH = 546e9, 819e9
"""Bytes a second of an M4 Max and an M3 Ultra."""


@dataclass(frozen=True, slots=True)
class Link:
    """What connects machines: seconds that a sum of one token takes."""

    name: str
    sum_s: float
    hop: float | None = None
    """Seconds from one machine to the next; None: as much as a sum, which is no less."""

    @property
    def hop_s(self) -> float:
        """Seconds that a token's hidden state takes to the next machine."""
        return self.sum_s if self.hop is None else self.hop


JACCL, TCP = Link("Thunderbolt 5 with JACCL", 10e-6), Link("TCP, the ring", 300e-6)


@dataclass(frozen=True, slots=True)
class Place:
    """One of the machines: bytes a second, and seconds that a layer takes its host."""

    bandwidth: float
    layer_s: float


def mac(gigabytes: float) -> Place:
    """A Mac of that memory."""
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
    """Bytes of the weights that one token reads; of experts those it is routed to."""
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
    """Of a short conversation, at batch 1. Raises `OptionError` where it can't be shared so."""
    layers = whole.num_hidden_layers
    if share.pipeline and share.size > 1:
        share.config(whole)
        read_s = bytes_a_token(whole) / place.bandwidth
        return 1 / (read_s + layers * place.layer_s + share.size * link.hop_s)
    sums = 0 if share.size == 1 else layers * (2 if share.attention else 1)
    own = share.config(whole)
    return 1 / (bytes_a_token(own) / place.bandwidth + layers * place.layer_s + sums * link.sum_s)
