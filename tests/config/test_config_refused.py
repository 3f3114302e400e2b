"""config.json: what is not understood is an error that names key and value, never a guess."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.errors import ConfigError
from tests.configs import DENSE, MOE, QUANTIZED, YARN, Values, new_spelling, refused


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rotary_pct": 0.25}, ("rotary_pct", "0.25")),
        ({"qk_norm": False}, ("qk_norm", "False")),
        ({"shared_expert_gate": "yes"}, ("shared_expert_gate", "'yes'")),
        ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, ("model_type", "'llama'")),
        ({"model_type": "qwen2"}, ("model_type", "'qwen2'")),
        ({"model_type": "qwen3_next"}, ("model_type", "'qwen3_next'")),
        ({"model_type": None}, ("model_type", "None")),
        ({"use_sliding_window": True}, ("use_sliding_window", "True")),
        ({"hidden_act": "gelu"}, ("hidden_act", "'gelu'", "'silu'")),
        ({"attention_bias": True}, ("attention_bias", "True")),
        ({"layer_types": ["full_attention", "sliding_attention"]}, ("layer_types", "sliding")),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, ("rope_type", "'linear'")),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, ("rope", "'dynamic'")),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e6}}, ("'llama3'",)),
        ({"rope_scaling": YARN | {"mscale_all_dim": 0.7}}, ("mscale_all_dim", "0.7")),
        ({"rope_scaling": YARN | {"factor": 0.5}}, ("factor", "0.5")),
        ({"rope_scaling": {"rope_type": "yarn"}}, ("factor",)),
        ({"rope_theta": None}, ("rope_theta",)),
        ({"rope_theta": -1.0}, ("rope_theta", "-1.0")),
        ({"hidden_size": "1024"}, ("hidden_size", "'1024'")),
        ({"hidden_size": 0}, ("hidden_size", "0")),
        ({"num_hidden_layers": True}, ("num_hidden_layers", "True")),
        ({"tie_word_embeddings": 1}, ("tie_word_embeddings", "1")),
        ({"num_key_value_heads": 7}, ("num_attention_heads", "16", "7")),
        ({"head_dim": 33}, ("head_dim", "33")),
        ({"num_experts": 8}, ("num_experts", "8", "qwen3_moe")),
    ],
    ids=lambda value: None if isinstance(value, tuple) else next(iter(value)),
)
def test_what_is_refused_names_key_and_value(change: Values, words: tuple[str, ...]) -> None:
    refused(DENSE | change, *words)


def test_another_architecture_gets_a_hint() -> None:
    assert "\nhint: " in refused(DENSE | {"model_type": "llama"})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_experts_per_tok": 129}, ("num_experts_per_tok", "129", "128")),
        ({"norm_topk_prob": "yes"}, ("norm_topk_prob", "'yes'")),
        ({"mlp_only_layers": 3}, ("mlp_only_layers", "3")),
        ({"mlp_only_layers": ["a"]}, ("mlp_only_layers", "'a'")),
        ({"decoder_sparse_step": 0}, ("decoder_sparse_step", "0")),
        ({"num_local_experts": 64}, ("num_local_experts", "64", "128")),
    ],
    ids=lambda value: None if isinstance(value, tuple) else next(iter(value)),
)
def test_what_is_refused_of_a_mixture(change: Values, words: tuple[str, ...]) -> None:
    refused(MOE | change, *words)


REQUIRED = [
    *("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads"),
]


@pytest.mark.parametrize("key", REQUIRED)
def test_a_missing_key_is_named(key: str) -> None:
    refused({k: v for k, v in DENSE.items() if k != key}, key)


@pytest.mark.parametrize("key", ["num_experts", "num_experts_per_tok", "moe_intermediate_size"])
def test_a_missing_key_of_a_mixture_is_named(key: str) -> None:
    refused({k: v for k, v in MOE.items() if k != key}, key)


@pytest.mark.parametrize("values", [DENSE, MOE], ids=["dense", "moe"])
def test_two_spellings_of_rope_that_disagree(values: Values) -> None:
    """Whoever adds rope_scaling to a new file, as Qwen's guide says, must not be ignored."""
    new = new_spelling(values)
    refused(new | {"rope_theta": 5e6}, "rope_theta", "5000000.0")
    refused(new | {"rope_scaling": YARN}, "rope_scaling")
    assert Qwen3Config.from_dict(new | {"rope_theta": 1e6, "rope_scaling": None})


# Values that no config has, tried in the place of every key.
ODD: list[Any] = [None, True, -1, 0, 3.5, "x", [], ["x"], {}, {"x": 1}, math.nan, math.inf, 10**400]


@pytest.mark.parametrize("values", [DENSE, MOE], ids=["dense", "moe"])
@pytest.mark.parametrize("spelling", ["old", "new", "quantized"])
def test_no_odd_value_escapes_as_another_exception(values: Values, spelling: str) -> None:
    every = {"beta_fast": 32.0, "beta_slow": 1.0, "attention_factor": 1.1, "truncate": True}
    start = values | {"rope_scaling": YARN | every}
    if spelling == "new":
        start = new_spelling(start)
    if spelling == "quantized":
        overrides = {"lm_head": {"group_size": 32, "bits": 8}, "model.embed_tokens": False}
        start = start | {"quantization": QUANTIZED | overrides}
    places = [(key,) for key in start]
    places += [(k, inner) for k, v in start.items() if isinstance(v, dict) for inner in v]
    wrong = [fault for place in places for odd in ODD if (fault := odd_value(start, place, odd))]
    assert not wrong, "\n" + "\n".join(wrong)


def odd_value(start: Values, place: tuple[str, ...], odd: Any) -> str | None:
    """Put `odd` in its place; return what is wrong if that is neither refused nor harmless."""
    changed = json.loads(json.dumps(start))
    holder = changed
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = odd
    shown = f"{'.'.join(place)} = {odd!r:.20}"
    try:
        config = Qwen3Config.from_dict(changed)
    except ConfigError:
        return None
    except Exception as error:
        return f"{shown}: {error!r}"
    numbers = [config.rms_norm_eps, config.rope.theta]
    if yarn := config.rope.scaling:
        numbers += [yarn.factor, yarn.mscale, yarn.beta_fast, yarn.beta_slow]
        numbers += [yarn.original_max_position_embeddings]
    sizes = [value for value in dataclasses.asdict(config).values() if type(value) is int]
    numbers += [size for size in sizes if size >= 2**31]  # no array has such a side
    if all(type(number) in (int, float) and 0 < number < 2**31 for number in numbers):
        return None
    return f"{shown}: accepted"


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({"group_size": 64, "bits": 7}, ("bits 7",)),
        ({"group_size": 48, "bits": 4}, ("group_size 48",)),
        ({"bits": 4}, ("quantization",)),
        (QUANTIZED | {"lm_head": {"group_size": 64, "bits": 1}}, ("lm_head", "bits 1")),
        (QUANTIZED | {"lm_head": {"bits": 8, "speed": 3}}, ("lm_head", "speed")),
        (QUANTIZED | {"mode": "lloyd"}, ("mode", "'lloyd'")),
    ],
)
def test_a_packing_that_mlx_does_not_have(block: Values, words: tuple[str, ...]) -> None:
    refused(DENSE | {"quantization": block}, *words)


@pytest.mark.parametrize(
    "foreign",
    [
        {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]},
        {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True},
        {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False},
    ],
    ids=lambda block: block["quant_method"],
)
def test_another_tools_packing_is_refused_with_a_hint_to_convert(foreign: Values) -> None:
    message = refused(DENSE | {"quantization_config": foreign}, foreign["quant_method"])
    assert "convert" in message.partition("\nhint: ")[2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"{", ("config.json", "JSON")),
        (b"", ("config.json", "JSON")),
        (b"[]", ("config.json", "list")),
        (b"null", ("config.json",)),
        (b'{"model_type": "\xff"}', ("config.json",)),
        (b"[" * 200_000, ("config.json",)),
    ],
    ids=["cut", "empty", "list", "null", "not utf-8", "deep"],
)
def test_a_file_that_is_no_json_object(text: bytes, words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(ConfigError) as caught:
        Qwen3Config.from_dir(tmp_path)
    for word in words:
        assert word in str(caught.value)


def test_no_file_at_all(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ConfigError, match=r"config\.json") as caught:
            Qwen3Config.from_dir(path)
        assert str(path) in str(caught.value)
