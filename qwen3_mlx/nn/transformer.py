"""The whole network: embedding, blocks, norm, head."""

from __future__ import annotations

from collections.abc import Sequence

import qwen3_mlx.device.backend as backend

import mlx.core as mx
import mlx.nn as nn

from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.errors import CheckpointError
from qwen3_mlx.nn.attention import Attention
from qwen3_mlx.nn.backend import PLAIN, Backend
from qwen3_mlx.nn.cache.full import KVCache
from qwen3_mlx.nn.cache.quantized import QuantizedCache
from qwen3_mlx.nn.cache.windowed import RotatingCache
from qwen3_mlx.nn.mlp import MLP
from qwen3_mlx.nn.moe import MoE
from qwen3_mlx.nn.norm import RMSNorm
from qwen3_mlx.nn.parallel import ALONE, Lead, Sums
from qwen3_mlx.nn.pipeline import Stage
from qwen3_mlx.nn.rows import Together, one_by_one
from qwen3_mlx.options import AS_COMPUTED, CacheFormat


class Block(nn.Module):
    """One layer: attention and feed-forward, each after a norm and with a residual connection."""

    sums: Sums = ALONE
    """The sums over the machines that share the network."""

    def __init__(self, config: Qwen3Config, index: int) -> None:
        super().__init__()
        c = config
        self.self_attn = Attention(
            c.hidden_size,
            c.num_attention_heads,
            c.num_key_value_heads,
            c.head_dim,
            c.rms_norm_eps,
            c.rope,
        )
        self.mlp: MLP | MoE = (
            MoE(
                c.hidden_size,
                c.moe_intermediate_size,
                c.num_experts,
                c.num_experts_per_tok,
                c.norm_topk_prob,
            )
            if c.is_moe_layer(index)
            else MLP(c.hidden_size, c.intermediate_size)
        )
        self.input_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)

    def __call__(self, x: mx.array, cache: KVCache | Together | None = None) -> mx.array:
        """Transform ``x [B, L, C]`` to ``[B, L, C]``; `cache` grows by L."""
        mixed = self.self_attn(self.input_layernorm(x), cache)
        x = x + (self.sums.attention(mixed) if self.sums.attention else mixed)
        out = self.mlp(self.post_attention_layernorm(x))
        return x + (self.sums.feed_forward(out) if self.sums.feed_forward else out)


class Qwen3Body(nn.Module):
    """Embedding, blocks and the last norm: tokens to hidden states."""

    backend: Backend = PLAIN
    lead: Lead | None = None
    """On the first machine of a shared network: tells the others what to compute."""
    stage: Stage | None = None
    """This machine's stage, if each machine holds whole layers."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = [Block(config, index) for index in range(config.num_hidden_layers)]
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def __call__(
        self, tokens: mx.array, cache: Sequence[KVCache | Together] | None = None
    ) -> mx.array:
        """``tokens [B, L]`` to hidden states ``[B, L, C]``; `cache` grows by L."""
        if self.lead is not None:
            return self.lead.forward(lambda told: self._forward(told, cache), tokens, cache)
        return self._forward(tokens, cache)

    def _forward(self, tokens: mx.array, cache: Sequence[KVCache | Together] | None) -> mx.array:
        x = self._first(tokens)
        for index, layer in enumerate(self.layers):
            behind, x = x, layer(x, cache[index] if cache is not None else None)
            self.backend.pace(x, behind)
        if self.stage is not None:
            x = self.stage.hand_on(x)
        return self.norm(x) if "norm" in self else x

    def _first(self, tokens: mx.array) -> mx.array:
        """The input ``[B, L, C]`` of the first layer here: embedded or from the previous stage."""
        if self.stage is None or self.stage.rank == 0:
            return self.embed_tokens(tokens)
        norm = self.layers[0].input_layernorm.weight
        return self.stage.take((*tokens.shape, norm.size), norm.dtype)

    def rows(
        self, tokens: mx.array, caches: Sequence[Sequence[KVCache]], new: Sequence[int]
    ) -> mx.array:
        """As `Qwen3Network.rows`, to hidden states ``[R, 1, C]``."""
        owners = [index for index, count in enumerate(new) for _ in range(count)]
        ahead = [place for count in new for place in range(count)]
        starts = [layers[0].offset for layers in caches]
        places = [starts[owner] + place for owner, place in zip(owners, ahead, strict=True)]
        offset = mx.array(places, mx.int32)
        layers = zip(*caches, strict=True)
        return self(tokens, [Together([layer[o] for o in owners], offset) for layer in layers])


class Qwen3Network(nn.Module):
    """A Qwen3 language model, dense or Mixture-of-Experts (arXiv 2505.09388)."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.model = Qwen3Body(config)
        self.context, self.head_dim = config.context, config.head_dim
        self.reach = config.reach
        self.vocab_size, self.has_head = config.vocab_size, config.head
        if config.head and not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def __call__(self, tokens: mx.array, cache: list[KVCache] | None = None) -> mx.array:
        """``tokens [B, L]`` to logits ``[B, L, V]``; `cache` grows by L."""
        return self.head(self.model(tokens, cache))

    def together(self, tokens: mx.array, caches: Sequence[Sequence[KVCache]]) -> mx.array:
        """One token of each of B sequences, ``tokens [B, 1]``, to logits ``[B, 1, V]``.

        caches: each sequence's caches, one per layer; they grow by one token.
        """
        return self.rows(tokens, caches, [1] * len(caches))

    def rows(
        self, tokens: mx.array, caches: Sequence[Sequence[KVCache]], new: Sequence[int]
    ) -> mx.array:
        """``tokens [R, 1]``, first ``new[0]`` of the first sequence, to logits ``[R, 1, V]``.

        caches: each sequence's caches, one per layer; they grow. On the CPU each token computes the
        same bits as in a step of its own.
        """
        return one_by_one(self.head, self.model.rows(tokens, caches, new))

    def successive(self, tokens: mx.array, cache: list[KVCache]) -> mx.array:
        """The next tokens ``[R, 1]`` of one sequence to logits ``[R, 1, V]``; `cache` grows by R.

        On the CPU each token computes the same bits as in a step of its own.
        """
        if backend.device() != "cpu":
            return self(tokens.reshape(1, -1), cache).swapaxes(0, 1)
        return self.rows(tokens, [cache], [len(tokens)])

    def head(self, hidden: mx.array) -> mx.array:
        """Hidden states ``[..., C]`` to logits ``[..., V]``; a tied head is the embedding.

        Raises `CheckpointError` if the checkpoint has no head.
        """
        if not self.has_head:
            hint = "the checkpoint is an embedder's, without a head: it gives vectors only"
            raise CheckpointError("the network computes no logits", hint=hint)
        if "lm_head" in self:
            return self.lm_head(hidden)
        return self.model.embed_tokens.as_linear(hidden)

    @property
    def layers(self) -> list[Block]:
        """The blocks in order; on a stage of a pipeline only those of this machine."""
        return self.model.layers

    def share_out(self, sums: Sums) -> None:
        """Sum both halves of every block over the machines that share the network."""
        for block in self.layers:
            block.sums = sums

    def become_stage(self, rank: int, size: int) -> None:
        """Become machine `rank` of a pipeline; all but the first drop embedding, norm and head."""
        self.model.stage = Stage(rank, size)
        if rank:
            self.pop("lm_head", None)
            for name in ("embed_tokens", "norm"):
                self.model.pop(name)

    @property
    def is_shared(self) -> bool:
        """Whether several machines hold the network together."""
        return self.model.stage is not None or not self.layers[0].sums.whole()

    def make_cache(self, cache_format: CacheFormat = AS_COMPUTED) -> list[KVCache]:
        """Empty caches for one conversation, one per layer. Raises `OptionError`."""
        return [self._layer_cache(cache_format) for _ in self.layers]

    def _layer_cache(self, cache_format: CacheFormat) -> KVCache:
        if cache_format.bits is not None:
            return QuantizedCache(
                cache_format.bits, cache_format.group(self.head_dim), self.context
            )
        if cache_format.window is not None:
            return RotatingCache(cache_format.window, cache_format.sinks)
        return KVCache(self.context)
