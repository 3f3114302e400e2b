"""config.json, as Qwen, transformers 5 and MLX write it, is read for what it says."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.errors import ContextError
from tests.configs import DENSE, MOE, QUANTIZED, YARN, Values, new_spelling, read


class Row(NamedTuple):
    """One line of Qwen's table of the family."""

    file: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    ffn: int
    experts: int
    top: int
    tied: bool
    parameters: int


FAMILY = (
    Row("Qwen3-0.6B", 28, 1024, 16, 8, 3072, 0, 0, True, 596_049_920),
    Row("Qwen3-1.7B", 28, 2048, 16, 8, 6144, 0, 0, True, 1_720_574_976),
    Row("Qwen3-4B", 36, 2560, 32, 8, 9728, 0, 0, True, 4_022_468_096),
    Row("Qwen3-8B", 36, 4096, 32, 8, 12288, 0, 0, False, 8_190_735_360),
    Row("Qwen3-14B", 40, 5120, 40, 8, 17408, 0, 0, False, 14_768_307_200),
    Row("Qwen3-32B", 64, 5120, 64, 8, 25600, 0, 0, False, 32_762_123_264),
    Row("Qwen3-30B-A3B", 48, 2048, 32, 4, 768, 128, 8, False, 30_532_122_624),
    Row("Qwen3-235B-A22B", 94, 4096, 64, 4, 1536, 128, 8, False, 235_093_634_560),
    Row("Qwen3-Coder-480B-A35B-Instruct", 62, 6144, 96, 8, 2560, 160, 8, False, 480_154_875_392),
)
THETA = {
    "Qwen3-8B": 1e6,
    "Qwen3-4B-Instruct-2507": 5e6,
    "Qwen3-4B-Thinking-2507": 5e6,
    "Qwen3-30B-A3B-Instruct-2507": 1e7,
    "Qwen3-235B-A22B-Instruct-2507": 5e6,
    "Qwen3-Coder-30B-A3B-Instruct": 1e7,
    "Qwen3-Coder-480B-A35B-Instruct": 1e7,
}


def released(folder: Path, name: str) -> Values:
    return json.loads((folder / "configs" / f"{name}.json").read_text())


def test_every_released_config_is_read(qwen3_files: Path) -> None:
    names = sorted(path.stem for path in (qwen3_files / "configs").glob("*.json"))
    assert len(names) >= 14
    for name in names:
        values = released(qwen3_files, name)
        config = Qwen3Config.from_dict(values)
        assert config.is_moe == ("num_experts" in values)
        assert Qwen3Config.from_dict(new_spelling(values)) == config


@pytest.mark.parametrize("row", FAMILY, ids=lambda row: row.file)
def test_the_family_is_as_qwen_describes_it(row: Row, qwen3_files: Path) -> None:
    c = Qwen3Config.from_dict(released(qwen3_files, row.file))
    assert (c.num_hidden_layers, c.hidden_size) == (row.layers, row.hidden)
    assert (c.num_attention_heads, c.num_key_value_heads) == (row.heads, row.kv_heads)
    assert (c.moe_intermediate_size or c.intermediate_size) == row.ffn
    assert (c.num_experts, c.num_experts_per_tok) == (row.experts, row.top)
    assert c.tie_word_embeddings == row.tied
    assert (c.head_dim, c.rms_norm_eps, c.vocab_size) == (128, 1e-6, 151_936)
    assert c.is_moe_layer(0) == c.is_moe_layer(c.num_hidden_layers - 1) == (row.experts > 0)


@pytest.mark.parametrize("row", FAMILY, ids=lambda row: row.file)
def test_the_network_of_a_config_has_exactly_its_parameters(row: Row, qwen3_files: Path) -> None:
    from mlx.utils import tree_flatten

    from qwen3_mlx.nn.transformer import Qwen3Network

    config = Qwen3Config.from_dict(released(qwen3_files, row.file))
    network = Qwen3Network(config)  # lazy: not one weight is computed
    shapes = [array.shape for _, array in tree_flatten(network.parameters())]
    assert sum(math.prod(shape) for shape in shapes) == row.parameters


def test_theta_is_the_files_own(qwen3_files: Path) -> None:
    for name, theta in THETA.items():
        config = Qwen3Config.from_dict(released(qwen3_files, name))
        assert config.rope.theta == theta
        assert config.rope.scaling is None


def test_native_context(qwen3_files: Path) -> None:
    for name in ("Qwen3-0.6B", "Qwen3-30B-A3B"):
        assert Qwen3Config.from_dict(released(qwen3_files, name)).native_context == 32_768
    for name in ("Qwen3-4B-Thinking-2507", "Qwen3-Coder-480B-A35B-Instruct"):
        assert Qwen3Config.from_dict(released(qwen3_files, name)).native_context == 262_144
    assert read(DENSE, rope_scaling=YARN).native_context == 32_768


def test_head_dim_is_read_and_not_derived() -> None:
    assert read(DENSE).head_dim == 128  # 1024 / 16 would be 64
    assert read(DENSE, head_dim=64).head_dim == 64


@pytest.mark.parametrize("values", [DENSE, MOE], ids=["dense", "moe"])
@pytest.mark.parametrize("scaling", [None, YARN, YARN | {"attention_factor": 1.2, "beta_fast": 8}])
def test_both_spellings_of_rope_are_one(values: Values, scaling: Values | None) -> None:
    old = values | {"rope_scaling": scaling, "rope_theta": 5e6}
    assert read(old) == Qwen3Config.from_dict(new_spelling(old))
    assert read(old).rope.theta == 5e6
    assert (read(old).rope.scaling is None) == (scaling is None)


def test_yarn() -> None:
    yarn = read(DENSE, rope_scaling=YARN).rope.scaling
    assert yarn is not None
    assert (yarn.factor, yarn.original_max_position_embeddings) == (4.0, 32_768)
    assert (yarn.beta_fast, yarn.beta_slow) == (32.0, 1.0)
    assert yarn.mscale == pytest.approx(0.1 * math.log(4) + 1)
    older = {("type" if key == "rope_type" else key): value for key, value in YARN.items()}
    assert read(DENSE, rope_scaling=older) == read(DENSE, rope_scaling=YARN)
    own = read(DENSE, rope_scaling=YARN | {"attention_factor": 1.5, "beta_slow": None})
    assert own.rope.scaling is not None
    assert (own.rope.scaling.mscale, own.rope.scaling.beta_slow) == (1.5, 1.0)


@pytest.mark.parametrize("values", [DENSE, MOE], ids=["dense", "moe"])
def test_a_longer_context_switches_yarn_on(values: Values) -> None:
    config = read(values)
    longer = config.for_context(131_072)
    assert longer.rope.scaling is not None
    assert longer.rope.scaling.factor == 4.0
    assert longer.rope.scaling.original_max_position_embeddings == 32_768
    assert longer.native_context == 32_768
    assert longer.rope == read(values, rope_scaling=YARN).rope
    assert dataclasses.replace(longer, rope=config.rope) == config
    with pytest.raises(ContextError, match="100000000"):
        config.for_context(100_000_000)


@pytest.mark.parametrize("more", [{}, {"rope_scaling": YARN}], ids=["plain", "yarn"])
def test_a_context_that_is_asked_for_is_a_cap_and_changes_no_number(more: Values) -> None:
    config = read(DENSE, **more)
    short = config.for_context(1000)
    assert (short.context, short.reach) == (1000, config.reach)
    assert dataclasses.replace(short, limit=None) == config
    assert short.native_context == config.native_context
    assert short.for_context(config.reach) == config
    assert short.for_context(2000).context == 2000
    longer = config.for_context(200_000)
    assert (longer.context, longer.reach) == (200_000, 7 * 32_768)
    assert longer.for_context(1000).rope == longer.rope


def test_which_layers_have_experts() -> None:
    def layers(**changes: Any) -> list[int]:
        config = read(MOE, num_hidden_layers=6, **changes)
        return [i for i in range(6) if config.is_moe_layer(i)]

    assert layers() == [0, 1, 2, 3, 4, 5]
    assert layers(decoder_sparse_step=2) == [1, 3, 5]
    assert layers(decoder_sparse_step=3, mlp_only_layers=[5]) == [2]
    assert layers(mlp_only_layers=[0, 4]) == [1, 2, 3, 5]
    assert layers(mlp_only_layers=None) == [0, 1, 2, 3, 4, 5]
    assert not any(read(DENSE).is_moe_layer(i) for i in range(28))


def test_a_config_is_frozen_and_hashable_where_it_matters() -> None:
    config = read(DENSE, rope_scaling=YARN)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.hidden_size = 5  # type: ignore[misc]
    assert len({config.rope, read(DENSE, rope_scaling=YARN).rope}) == 1


def test_the_number_of_experts_under_transformers_new_name() -> None:
    new = {key: value for key, value in MOE.items() if key != "num_experts"}
    assert read(new, num_local_experts=128) == read(MOE)
    assert read(MOE, num_local_experts=128) == read(MOE)


def test_quantization_with_exceptions() -> None:
    block = QUANTIZED | {
        "model.layers.0.mlp.gate": {"group_size": 32, "bits": 8},
        "model.embed_tokens": False,
        "lm_head": {"group_size": 128, "bits": 6, "mode": "affine"},
    }
    config = read(MOE, quantization=block, quantization_config=block)
    assert config.quantization is not None

    def spec(path: str) -> tuple[int, int] | None:
        found = config.quantization.spec(path) if config.quantization else None
        return (found.group_size, found.bits) if found else None

    assert spec("model.layers.0.mlp.gate") == (32, 8)
    assert spec("model.layers.1.mlp.gate") == (64, 4)
    assert spec("model.embed_tokens") is None
    assert spec("lm_head") == (128, 6)
    assert read(DENSE).quantization is None
    assert read(DENSE, quantization=None, quantization_config=None).quantization is None


def test_mlx_quantization_under_its_other_key() -> None:
    """Some MLX checkpoints have only the key that Hugging Face shows on its pages."""
    config = read(DENSE, quantization_config=QUANTIZED)
    assert config == read(DENSE, quantization=QUANTIZED)


def test_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(DENSE))
    assert Qwen3Config.from_dir(tmp_path) == Qwen3Config.from_dir(str(tmp_path)) == read(DENSE)
