"""The released Qwen3 models: aliases, repositories and shapes.

The shapes answer "will it fit?" before a download, and offline. Sources: the config.json of Qwen's
repositories; mlx-community's repositories quantize to 4 bits in groups of 64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qwen3_mlx.hub import kinds

OWNER = "mlx-community"


@dataclass(frozen=True, slots=True)
class Size:
    """The hyperparameters in which Qwen3's sizes differ; names as in config.json."""

    num_hidden_layers: int
    hidden_size: int
    num_attention_heads: int
    num_key_value_heads: int
    intermediate_size: int
    tie_word_embeddings: bool = False
    num_experts: int = 0
    num_experts_per_tok: int = 0
    moe_intermediate_size: int = 0

    def config(self) -> dict[str, Any]:
        """The unquantized config.json of a network of this size, as released in April 2025."""
        values: dict[str, Any] = {
            name: getattr(self, name)
            for name in Size.__slots__
            if self.num_experts or name not in _MOE_FIELDS
        }
        moe = {"norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []}
        return values | {
            "model_type": "qwen3_moe" if self.num_experts else "qwen3",
            "head_dim": 128,
            "vocab_size": 151_936,
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 40_960,
            "rope_theta": 1e6,
            **(moe if self.num_experts else {}),
        }


_MOE_FIELDS = ("num_experts", "num_experts_per_tok", "moe_intermediate_size")

SIZES = {
    "0.6B": Size(28, 1024, 16, 8, 3072, tie_word_embeddings=True),
    "1.7B": Size(28, 2048, 16, 8, 6144, tie_word_embeddings=True),
    "4B": Size(36, 2560, 32, 8, 9728, tie_word_embeddings=True),
    "8B": Size(36, 4096, 32, 8, 12288),
    "14B": Size(40, 5120, 40, 8, 17408),
    "32B": Size(64, 5120, 64, 8, 25600),
    "30B-A3B": Size(48, 2048, 32, 4, 6144, False, 128, 8, 768),
    "235B-A22B": Size(94, 4096, 64, 4, 12288, False, 128, 8, 1536),
    "Coder-480B-A35B": Size(62, 6144, 96, 8, 8192, False, 160, 8, 2560),
}


@dataclass(frozen=True, slots=True)
class Release:
    """One released model: its alias, its repository (of `OWNER`) and its shape."""

    alias: str
    name: str
    size: str
    max_position_embeddings: int = 40_960
    rope_theta: float = 1e6
    kind: kinds.Kind = "chat"
    vocab_size: int = 151_936

    @property
    def repo(self) -> str:
        """The 4-bit repository on the hub; for embedders and rerankers Qwen's own in bf16."""
        return f"{OWNER}/{self.name}-4bit" if self.kind == "chat" else f"Qwen/{self.name}"

    def config(self) -> dict[str, Any]:
        """The keys of the repository's config.json that determine the network.

        Embedders count as tied: with or without tying they have no weights for a head.
        """
        values = SIZES[self.size].config() | {
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.max_position_embeddings,
            "rope_theta": self.rope_theta,
        }
        if self.kind == "embedder":
            values["tie_word_embeddings"] = True
        packing = {"quantization": {"group_size": 64, "bits": 4}}
        return values | (packing if self.kind == "chat" else {})


_LONG = 262_144

RELEASES = (
    Release("0.6b", "Qwen3-0.6B", "0.6B"),
    Release("1.7b", "Qwen3-1.7B", "1.7B"),
    Release("4b", "Qwen3-4B", "4B"),
    Release("8b", "Qwen3-8B", "8B"),
    Release("14b", "Qwen3-14B", "14B"),
    Release("32b", "Qwen3-32B", "32B"),
    Release("30b-a3b", "Qwen3-30B-A3B", "30B-A3B"),
    Release("235b-a22b", "Qwen3-235B-A22B", "235B-A22B"),
    Release("4b-instruct-2507", "Qwen3-4B-Instruct-2507", "4B", _LONG, 5e6),
    Release("4b-thinking-2507", "Qwen3-4B-Thinking-2507", "4B", _LONG, 5e6),
    Release("30b-a3b-instruct-2507", "Qwen3-30B-A3B-Instruct-2507", "30B-A3B", _LONG, 1e7),
    Release("30b-a3b-thinking-2507", "Qwen3-30B-A3B-Thinking-2507", "30B-A3B", _LONG, 1e7),
    Release("235b-a22b-instruct-2507", "Qwen3-235B-A22B-Instruct-2507", "235B-A22B", _LONG, 5e6),
    Release("235b-a22b-thinking-2507", "Qwen3-235B-A22B-Thinking-2507", "235B-A22B", _LONG, 5e6),
    Release("coder-30b", "Qwen3-Coder-30B-A3B-Instruct", "30B-A3B", _LONG, 1e7),
    Release("coder-480b", "Qwen3-Coder-480B-A35B-Instruct", "Coder-480B-A35B", _LONG, 1e7),
)

RETRIEVAL = (
    Release("embed-0.6b", "Qwen3-Embedding-0.6B", "0.6B", 32_768, 1e6, "embedder", 151_669),
    Release("embed-4b", "Qwen3-Embedding-4B", "4B", 40_960, 1e6, "embedder", 151_665),
    Release("embed-8b", "Qwen3-Embedding-8B", "8B", 40_960, 1e6, "embedder", 151_665),
    Release("rerank-0.6b", "Qwen3-Reranker-0.6B", "0.6B", 40_960, 1e6, "reranker", 151_669),
    Release("rerank-4b", "Qwen3-Reranker-4B", "4B", 40_960, 1e6, "reranker", 151_669),
    Release("rerank-8b", "Qwen3-Reranker-8B", "8B", 40_960, 1e6, "reranker", 151_669),
)
"""Embedders and rerankers. They aren't quantized, which would cost vectors more than text."""

SHORT = {
    "30b": "30b-a3b",
    "235b": "235b-a22b",
    "4b-2507": "4b-instruct-2507",
    "30b-a3b-2507": "30b-a3b-instruct-2507",
    "235b-a22b-2507": "235b-a22b-instruct-2507",
    "coder-30b-a3b": "coder-30b",
    "coder-30b-a3b-instruct": "coder-30b",
    "coder-480b-a35b": "coder-480b",
    "coder-480b-a35b-instruct": "coder-480b",
}
"""Other spellings of aliases; ``-2507`` alone means the Instruct model."""
for _release in RETRIEVAL:
    SHORT[_release.name.lower().removeprefix("qwen3-")] = _release.alias

_BY_ALIAS = {release.alias: release for release in (*RELEASES, *RETRIEVAL)}


def find(name: str) -> Release | None:
    """The release of an alias in any case, also spelled ``qwen3-8b`` or ``8b-4bit``; or None."""
    alias = name.lower().removeprefix("qwen3-").removesuffix("-4bit")
    return _BY_ALIAS.get(SHORT.get(alias, alias))


def of_repo(repo: str) -> Release | None:
    """The release in the repository `repo`, or None."""
    every = _BY_ALIAS.values()
    return next((release for release in every if release.repo.lower() == repo.lower()), None)


def aliases() -> list[str]:
    """All aliases, the canonical ones first."""
    return [*_BY_ALIAS, *SHORT]
