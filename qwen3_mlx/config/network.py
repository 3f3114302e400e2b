"""Reads config.json strictly: every key is used, ignored on purpose, or an error."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qwen3_mlx.config.keys import FIXED, IGNORED
from qwen3_mlx.config.quantization import Quantization, read_quantization
from qwen3_mlx.config.rope import Rope, Yarn, read_rope
from qwen3_mlx.config.values import LARGEST
from qwen3_mlx.errors import ConfigError, ContextError, shown
from qwen3_mlx.files import path_text, read_config

DENSE_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "rms_norm_eps",
    "max_position_embeddings",
    "tie_word_embeddings",
)
MOE_KEYS = (
    "num_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "norm_topk_prob",
    "decoder_sparse_step",
    "mlp_only_layers",
)
READ_ELSEWHERE = (
    "model_type",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "layer_types",
    "quantization",
    "quantization_config",
    "shares",
)

SPELLINGS = {"num_local_experts": "num_experts"}
"""Names of transformers 5, and the same keys in Qwen's releases."""

# The defaults of transformers' Qwen3Config and Qwen3MoeConfig. Missing sizes are not guessed:
# a file that lacks them is damaged.
_DEFAULTS: dict[str, Any] = {
    "head_dim": 128,
    "max_position_embeddings": 32_768,
    "tie_word_embeddings": False,
    "rms_norm_eps": 1e-6,
    "decoder_sparse_step": 1,
    "mlp_only_layers": (),
    "norm_topk_prob": False,
}

# Qwen gives 40,960 as 32,768 trained positions + 8,192 of headroom (docs, "Processing Long Texts").
_HEADROOM = {40_960: 32_768}
MAX_YARN_FACTOR = 32.0

_MAX_COUNT = {"num_hidden_layers": 1000, "num_experts": 10_000}
"""Upper bounds of counts that are looped over; the largest Qwen3 has 94 layers, 160 experts."""


@dataclass(frozen=True)
class Qwen3Config:
    """The shape of one Qwen3, dense or Mixture-of-Experts; names as in config.json."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    max_position_embeddings: int
    tie_word_embeddings: bool
    rope: Rope
    quantization: Quantization | None = None
    num_experts: int = 0
    num_experts_per_tok: int = 0
    moe_intermediate_size: int = 0
    norm_topk_prob: bool = False
    decoder_sparse_step: int = 1
    mlp_only_layers: tuple[int, ...] = ()
    head: bool = True
    """Whether the network has an LM head. An embedder's checkpoint has only the body."""
    limit: int | None = None
    """The context asked for, in tokens, if it is below `reach`: a cap that changes no number."""

    @classmethod
    def from_dir(cls, path: str | Path) -> Qwen3Config:
        """Read ``config.json`` in the directory `path`. Raises `ConfigError` or `OptionError`."""
        path = path_text("path", path)
        return cls.from_dict(read_config(path))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Qwen3Config:
        """Build from the parsed config.json. Raises `ConfigError` that names key and value."""
        model_type = values.get("model_type")
        if model_type not in ("qwen3", "qwen3_moe"):
            raise ConfigError(
                "model_type",
                got=shown(model_type),
                expected="'qwen3' or 'qwen3_moe'",
                hint="this package runs Qwen3 only; mlx-lm runs other families",
            )
        moe = model_type == "qwen3_moe"
        values = _one_spelling(values)
        _check_keys(values, moe)
        _derive(values, moe)
        keys = DENSE_KEYS + (MOE_KEYS if moe else ())
        config = cls(
            model_type=model_type,
            rope=read_rope(values),
            quantization=read_quantization(values),
            **{key: _value(values, key) for key in keys},
        )
        _check_shape(config)
        return config

    @property
    def is_moe(self) -> bool:
        """Whether any layer may be a Mixture of Experts."""
        return self.model_type == "qwen3_moe"

    def is_moe_layer(self, index: int) -> bool:
        """Whether layer `index` is a Mixture of Experts (transformers' Qwen3MoeDecoderLayer)."""
        if not self.is_moe or index in self.mlp_only_layers:
            return False
        return (index + 1) % self.decoder_sparse_step == 0

    @property
    def native_context(self) -> int:
        """Positions the model was trained on, in tokens; up to here it needs no YaRN."""
        if self.rope.scaling is not None:
            return self.rope.scaling.original_max_position_embeddings
        return _HEADROOM.get(self.max_position_embeddings, self.max_position_embeddings)

    @property
    def context(self) -> int:
        """Tokens that a conversation may have: the `limit`, else the whole `reach`."""
        return self.reach if self.limit is None else min(self.limit, self.reach)

    @property
    def reach(self) -> int:
        """Positions this configuration supports with YaRN, in tokens."""
        scaling = self.rope.scaling
        if scaling is None:
            return self.max_position_embeddings
        extended = int(scaling.factor * scaling.original_max_position_embeddings)
        return max(self.max_position_embeddings, extended)

    def for_context(self, tokens: int) -> Qwen3Config:
        """The configuration for a context of `tokens`: no less, and no more.

        Raises `ContextError` as `reaching`.
        """
        config = self.reaching(tokens)
        limit = tokens if tokens < config.reach else None
        return config if limit == config.limit else replace(config, limit=limit)

    def reaching(self, tokens: int) -> Qwen3Config:
        """The configuration with YaRN if `tokens` positions need it; its `limit` stays.

        YaRN's factor is the smallest sufficient integer; if `reach` suffices, self is returned
        unchanged. Raises `ContextError` beyond a factor of 32.
        """
        if tokens <= self.reach:
            return self
        factor = float(math.ceil(tokens / self.native_context))
        if factor > MAX_YARN_FACTOR:
            limit = int(MAX_YARN_FACTOR * self.native_context)
            hint = f"YaRN reaches {MAX_YARN_FACTOR:.0f} × the native {self.native_context} tokens"
            got, expected = f"{tokens} tokens", f"at most {limit}"
            raise ContextError("context", got=got, expected=expected, hint=hint)
        yarn = replace(self.rope.scaling or Yarn(1.0, self.native_context), factor=factor)
        return replace(self, rope=replace(self.rope, scaling=yarn))


def _one_spelling(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values under the names that Qwen's releases use. Raises `ConfigError` on conflicts."""
    named = dict(values)
    for other, name in SPELLINGS.items():
        if other in named and named.setdefault(name, named[other]) != named.pop(other):
            raise ConfigError(
                f"config.json: {name} and {other}",
                got=f"{named[name]!r} and {values[other]!r}",
                expected="the same value",
            )
    return named


def _derive(values: dict[str, Any], moe: bool) -> None:
    """Fill in the values that transformers derives from other keys."""
    heads, width = values.get("num_attention_heads"), values.get("hidden_size")
    if values.get("num_key_value_heads", heads) is None:
        values["num_key_value_heads"] = heads
    if moe and values.get("head_dim") is None and type(heads) is type(width) is int and heads > 0:
        values["head_dim"] = width // heads  # unlike Qwen3Config, Qwen3MoeConfig has no default


def _check_keys(values: Mapping[str, Any], moe: bool) -> None:
    known = {*DENSE_KEYS, *MOE_KEYS, *READ_ELSEWHERE, *FIXED, *IGNORED}
    for key, value in values.items():
        if key not in known:
            raise ConfigError(
                f"config.json: unknown key {key!r}",
                got=shown(value),
                hint="it may change the network, so it is not guessed at; remove it if it is not",
            )
        if key in FIXED and value not in FIXED[key]:
            raise ConfigError(f"config.json: {key}", got=shown(value), expected=repr(FIXED[key][0]))
    layer_types = values.get("layer_types") or []
    if not isinstance(layer_types, list) or any(kind != "full_attention" for kind in layer_types):
        raise ConfigError(
            "config.json: layer_types",
            got=shown(layer_types),
            expected="'full_attention' throughout",
        )
    if not moe and values.get("num_experts"):
        raise ConfigError(
            "config.json: num_experts",
            got=shown(values["num_experts"]),
            expected="model_type 'qwen3_moe'",
        )


_KINDS: dict[str, tuple[type, ...]] = {
    "rms_norm_eps": (int, float),
    "tie_word_embeddings": (bool,),
    "norm_topk_prob": (bool,),
    "mlp_only_layers": (list, tuple),
}


def _value(values: Mapping[str, Any], key: str) -> Any:
    value: Any = values.get(key)
    if value is None:
        if key not in _DEFAULTS:
            raise ConfigError(f"config.json: {key} is missing")
        return _DEFAULTS[key]
    kinds = _KINDS.get(key, (int,))
    if not any(type(value) is kind for kind in kinds):  # bool is an int to isinstance
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise ConfigError(f"config.json: {key}", got=shown(value), expected=expected)
    if key == "mlp_only_layers":
        if len(value) > _MAX_COUNT["num_hidden_layers"] or not all(
            type(index) is int for index in value
        ):
            raise ConfigError(f"config.json: {key}", got=shown(value), expected="layer numbers")
        return tuple(value)
    if key in _MAX_COUNT and not 0 < value <= _MAX_COUNT[key]:
        expected = f"1 to {_MAX_COUNT[key]:,}"
        raise ConfigError(f"config.json: {key}", got=shown(value), expected=expected)
    if bool not in kinds and not 0 < value < LARGEST:
        raise ConfigError(f"config.json: {key}", got=shown(value), expected="above 0, below 2**31")
    return value


def _check_shape(config: Qwen3Config) -> None:
    if config.num_attention_heads % config.num_key_value_heads:
        raise ConfigError(
            "config.json: num_attention_heads",
            got=config.num_attention_heads,
            expected=f"a multiple of num_key_value_heads ({config.num_key_value_heads})",
        )
    if config.head_dim % 2:
        raise ConfigError("config.json: head_dim", got=config.head_dim, expected="an even number")
    if config.num_experts_per_tok > config.num_experts:
        raise ConfigError(
            "config.json: num_experts_per_tok",
            got=config.num_experts_per_tok,
            expected=f"at most num_experts ({config.num_experts})",
        )
