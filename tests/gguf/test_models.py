"""Whole models in GGUF: loaded, described, converted; against the same weights in float32."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from qwen3_mlx import load
from qwen3_mlx.checkpoint import gguf_read, load_network
from qwen3_mlx.checkpoint.check import check
from qwen3_mlx.checkpoint.gguf_read import GgufReader
from qwen3_mlx.checkpoint.headers import checkpoint_tensors
from qwen3_mlx.config.share import Share
from qwen3_mlx.gguf import folder
from qwen3_mlx.hub import resolve
from qwen3_mlx.quantize.formats import open_source
from tests import oracle
from tests.gguf import files
from tests.quantize.build import Array, write_model
from tests.quantize.conftest import convert

CONFIGS = {"dense": files.DENSE_CONFIG, "moe": files.MOE_CONFIG}
TOKENS = mx.array([[5, 17, 300, 42, 7, 99, 255, 256, 3, 401]])


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN3_MLX_HOME", str(tmp_path / "home"))


def reference(tmp_path: Path, config: Mapping[str, Any], dense: dict[str, Array]) -> mx.array:
    """The logits of the same weights, stored as float32 safetensors."""
    plain = write_model(tmp_path / "plain", config, dense)
    network, _ = load_network(plain)
    return network(TOKENS)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q5_1", "Q4_K", "Q5_K"])
@pytest.mark.parametrize("shape", CONFIGS)
def test_a_model_computes_what_its_weights_say(tmp_path: Path, shape: str, kind: str) -> None:
    config = CONFIGS[shape]
    model = files.model(config, files.always(kind))
    network, read = load_network(resolve.resolve(str(files.write(model, tmp_path / "m.gguf"))))
    assert read.rope.theta == 1_000_000 and read.rms_norm_eps == 1e-6
    # scales are rounded to bfloat16 where the codes are kept; no route changes here, and so
    # experts are as near as dense matrices (4e-5 and 6e-5 at most)
    bound = 1e-9 if kind in ("F32", "F16", "BF16") else 3e-4
    oracle.assert_close(network(TOKENS), reference(tmp_path, config, model.dense), bound=bound)


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q6_K"])
def test_tensors_may_be_read_in_any_order_and_again(tmp_path: Path, kind: str) -> None:
    """Weight, scales and biases are made together: no reader may hand out another tensor's."""
    model = files.model(files.DENSE_CONFIG, files.always(kind))
    infos = checkpoint_tensors(resolve.resolve(str(files.write(model, tmp_path / "m.gguf"))))
    chosen = [info for name, info in infos.items() if "layers.0.self_attn" in name]
    want = {info.name: GgufReader().read(info) for info in chosen}
    one, rng = GgufReader(), random.Random(2)
    for info in rng.choices(chosen, k=60):
        assert mx.array_equal(one.read(info), want[info.name]), info.name


@pytest.mark.parametrize("shape", CONFIGS)
def test_a_mixture_of_types(tmp_path: Path, shape: str) -> None:
    """Q6_K and the like are packed again, in 8 bits: a bound of what that may cost."""
    config = CONFIGS[shape]
    model = files.model(config, files.k_m)
    directory = resolve.resolve(str(files.write(model, tmp_path / "m.gguf")))
    network, _ = load_network(directory)
    oracle.assert_close(network(TOKENS), reference(tmp_path, config, model.dense), bound=2e-3)
    assert not [finding for finding in check(directory) if finding.severity == "error"]


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q6_K"])
def test_how_many_rows_are_unpacked_at_a_time_changes_nothing(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = files.model(files.DENSE_CONFIG, files.always(kind))
    infos = checkpoint_tensors(resolve.resolve(str(files.write(model, tmp_path / "m.gguf"))))
    at_once = {name: GgufReader().read(info) for name, info in infos.items()}
    monkeypatch.setattr(gguf_read, "_STEP", 100 * 256)  # a hundred rows of 256 columns
    for name, info in infos.items():
        assert mx.array_equal(GgufReader().read(info), at_once[name]), name


@pytest.mark.parametrize("kind", ["F16", "Q8_0"])
@pytest.mark.parametrize("shape", CONFIGS)
def test_one_machine_s_part_is_the_whole_s(tmp_path: Path, shape: str, kind: str) -> None:
    model = files.model(CONFIGS[shape], files.always(kind))
    directory = resolve.resolve(str(files.write(model, tmp_path / "m.gguf")))

    def parameters(share: Share) -> dict[str, mx.array]:
        return dict(tree_flatten(load_network(directory, share=share)[0].parameters()))

    whole = parameters(Share(0, 1))
    for rank in (0, 1):
        share = Share(rank, 2)
        own = parameters(share)
        assert own.keys() == whole.keys()
        for name, part in own.items():
            place = share.part(name.rpartition(".")[0], whole[name].shape)
            assert mx.array_equal(part, whole[name][place]), name


@pytest.mark.parametrize("kind", files.TYPES)
def test_the_converter_reads_every_type_exactly(tmp_path: Path, kind: str) -> None:
    model = files.model(files.MOE_CONFIG, files.always(kind))
    source = open_source(resolve.resolve(str(files.write(model, tmp_path / "m.gguf"))))
    assert source.format == "gguf"
    for weight in source.weights:
        rows = weight.parts[0].open(mx.float32)(0, weight.parts[0].shape[0])
        oracle.assert_close(rows, _dense(model, weight.path, weight.shape), bound=1e-13)


def _dense(model: files.Gguf, path: str, shape: tuple[int, ...]) -> Array:
    if ".switch_mlp." not in path:
        found = model.dense[f"{path}.weight"]
        return found.reshape(-1, shape[-1])
    name = path.replace(".switch_mlp.", ".experts.{}.")
    return np.concatenate([model.dense[f"{name.format(e)}.weight"] for e in range(shape[0])])


@pytest.mark.parametrize("shape", CONFIGS)
def test_a_model_is_converted_and_compared(tmp_path: Path, shape: str) -> None:
    model = files.model(CONFIGS[shape], files.k_m)
    source = resolve.resolve(str(files.write(model, tmp_path / "m.gguf")))
    record = convert(source, tmp_path / "out", "8bit", verify=True)
    assert record["source"]["format"] == "gguf" and record["source"]["license"] == "apache-2.0"
    # 0.0007 and 0.005: a random router sends some tokens elsewhere (1.3 nats at one of them);
    # with every expert chosen it is 0.001
    assert record["measured"]["kl_mean"] < 0.02
    assert record["measured"]["loaded"]
    reply = load(tmp_path / "out").generate("What is 17?", max_tokens=4, temperature=0.0)
    assert reply.stats.prompt_tokens > 4


def test_a_file_chats(tmp_path: Path) -> None:
    file = files.write(files.model(files.DENSE_CONFIG, files.k_m), tmp_path / "tiny-Q4_K_M.gguf")
    model = load(file)
    assert model.family == "hybrid"
    assert model.tokenizer.decode(model.tokenizer.encode("Zürich <think>")) == "Zürich <think>"
    assert model.tokenizer.eos_ids == {
        model.tokenizer.im_end,
        model.tokenizer.token_id("<|endoftext|>"),
    }
    assert model.generate("What is 17 * 23?", max_tokens=6, temperature=0.0).stats.prompt_tokens
    assert model.runtime.fingerprint == load(file).runtime.fingerprint is not None


def test_a_file_without_a_template_has_ours(tmp_path: Path) -> None:
    model = files.model(files.DENSE_CONFIG, files.always("Q8_0"), template=None)
    assert load(files.write(model, tmp_path / "m.gguf")).family == "hybrid"


def test_parts_are_one_model(tmp_path: Path) -> None:
    model = files.model(files.MOE_CONFIG, files.always("Q4_K"))
    parts = files.write_split(model, tmp_path, 3)
    one, _ = load_network(resolve.resolve(str(parts[0])))
    other, _ = load_network(resolve.resolve(str(parts[1])))  # any of them will do
    assert mx.array_equal(one(TOKENS), other(TOKENS)).item()
    whole = tmp_path / "whole"
    whole.mkdir()
    same, _ = load_network(resolve.resolve(str(files.write(model, whole / "m.gguf"))))
    assert mx.array_equal(one(TOKENS), same(TOKENS)).item()


def test_a_folder_with_one_model(tmp_path: Path) -> None:
    model = files.model(files.DENSE_CONFIG, files.always("Q8_0"))
    files.write(model, tmp_path / "m.gguf")
    (tmp_path / "mmproj-F16.gguf").write_bytes(b"a projector for pictures")
    (tmp_path / "._m.gguf").write_bytes(b"the Finder's")
    assert resolve.resolve(f"{tmp_path}/") == folder.of(tmp_path / "m.gguf")


def test_the_folder_follows_the_file(tmp_path: Path) -> None:
    file = files.write(files.model(files.DENSE_CONFIG, files.always("Q8_0")), tmp_path / "m.gguf")
    first = folder.of(file)
    stamp = (first / "config.json").stat().st_mtime_ns
    assert folder.of(file) == first and (first / "config.json").stat().st_mtime_ns == stamp
    files.write(files.model(files.DENSE_CONFIG, files.always("Q4_0")), file)
    again = folder.of(file)
    bits = {
        spec["bits"]
        for spec in json.loads((again / "config.json").read_text())["quantization"].values()
    }
    assert again != first and bits == {4}


def test_yarn_and_layers_without_experts(tmp_path: Path) -> None:
    config = files.MOE_CONFIG | {"mlp_only_layers": [0]}
    model = files.model(files.MOE_CONFIG, files.always("F16"))
    dense = files.model(files.DENSE_CONFIG, files.always("F16"))
    for name in [n for n in model.tensors if n.startswith("blk.0.ffn_") and "norm" not in n]:
        del model.tensors[name]
    model.tensors |= {n: t for n, t in dense.tensors.items() if n.startswith("blk.0.ffn_")}
    kept = {n: x for n, x in model.dense.items() if "layers.0.mlp" not in n}
    kept |= {n: x for n, x in dense.dense.items() if "layers.0.mlp" in n}
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}
    said = {"type": "yarn", "factor": 4.0, "original_context_length": 256}
    model.metadata |= {f"qwen3moe.rope.scaling.{key}": value for key, value in said.items()}
    network, read = load_network(resolve.resolve(str(files.write(model, tmp_path / "m.gguf"))))
    assert read.mlp_only_layers == (0,) and read.context == 1024
    want = reference(tmp_path, config | {"rope_scaling": yarn}, kept)
    oracle.assert_close(network(TOKENS), want, bound=1e-9)
