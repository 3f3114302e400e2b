"""What a conversion writes, to the byte, and what it refuses."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import qwen3_mlx.device.backend  # noqa: F401

import mlx.core as mx
import numpy as np
import pytest

from qwen3_mlx.checkpoint import load_network
from qwen3_mlx.checkpoint.headers import read_header
from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.config.quantization import QuantSpec
from qwen3_mlx.config.recipes import RECIPES, find
from qwen3_mlx.errors import CheckpointError, ConfigError, OptionError
from qwen3_mlx.quantize import pack
from qwen3_mlx.quantize.disk import Disk
from qwen3_mlx.quantize.formats import open_source
from qwen3_mlx.quantize.plan import PAGE, make_plan
from tests.quantize.build import (
    DENSE,
    MOE,
    all_bytes,
    bf16,
    bf16_model,
    random_weights,
    read_model,
    write_model,
)
from tests.quantize.conftest import convert

BF16 = {name: bf16(x) for name, x in random_weights(DENSE).items()}


def packed_reference(config: dict[str, Any], recipe: str) -> dict[str, bytes]:
    """Every tensor of the result, each made whole at once with MLX."""
    weights = random_weights(config)
    parsed = Qwen3Config.from_dict(config)
    stacks: dict[str, list[np.ndarray]] = {}
    for name, x in weights.items():
        path = name.removesuffix(".weight")
        head, found, tail = path.partition(".mlp.experts.")
        if found:
            path = f"{head}.mlp.switch_mlp.{tail.partition('.')[2]}"
        stacks.setdefault(path, []).append(x)
    result = {}
    for path, parts in stacks.items():
        x = mx.array(np.stack(parts) if "switch_mlp" in path else parts[0]).astype(mx.bfloat16)
        spec = find(recipe).spec(path, parsed) if x.ndim > 1 else None
        arrays = pack.pack(x, spec)
        for kind, array in zip(("weight", "scales", "biases"), arrays, strict=False):
            mx.eval(array)
            result[f"{path}.{kind}"] = bytes(pack.bytes_of(array))
    return result


@pytest.mark.parametrize("recipe", [name for name in RECIPES if name != "dynamic"])
@pytest.mark.parametrize("config", [DENSE, MOE], ids=["dense", "moe"])
def test_the_result_is_what_packing_each_weight_whole_gives(
    tmp_path: Path, config: dict[str, Any], recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack, "BLOCK", 128 * 128)  # several blocks a weight
    source = bf16_model(tmp_path / "in", config)
    convert(source, tmp_path / "out", recipe)
    got = {name: data for name, (_, _, data) in read_model(tmp_path / "out").items()}
    assert got == packed_reference(config, recipe)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("config", [DENSE, MOE], ids=["dense", "moe"])
def test_every_recipe_gives_a_checkpoint_that_loads(
    tmp_path: Path, config: dict[str, Any], recipe: str
) -> None:
    # small matrices have relatively more scales, so a measured recipe needs a higher target
    chosen = find(recipe) if recipe != "dynamic" else replace(find(recipe), target=6.5)
    convert(bf16_model(tmp_path / "in", config), tmp_path / "out", recipe=chosen)
    network, parsed = load_network(tmp_path / "out")
    assert mx.isfinite(network(mx.array([[1, 2, 3]]))).all()
    assert (parsed.quantization is None) == (recipe == "bf16")


def test_the_files_are_those_of_the_plan(dense: Path, tmp_path: Path) -> None:
    plan = make_plan(open_source(dense), find("4bit"), shard_bytes=30_000)
    convert(dense, tmp_path / "out", shard_bytes=30_000)
    sizes = {name: len(data) for name, data in all_bytes(tmp_path / "out").items()}
    assert len(plan.shards) > 3
    assert sizes.pop("README.md") > 500 and sizes.pop("conversion.json") > 500
    assert sizes == plan.files()


@pytest.mark.parametrize("shard_bytes", [10**9, 30_000])
def test_the_same_source_gives_the_same_bytes(
    dense: Path, tmp_path: Path, shard_bytes: int
) -> None:
    for out in ("a", "b"):
        convert(dense, tmp_path / out / "m", shard_bytes=shard_bytes)
    assert all_bytes(tmp_path / "a" / "m") == all_bytes(tmp_path / "b" / "m")


def test_shards_hold_at_most_what_they_may_unless_one_weight_is_larger(
    moe: Path, tmp_path: Path
) -> None:
    convert(moe, tmp_path / "out", shard_bytes=40_000)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 2
    assert [file.name for file in files] == [
        f"model-{n:05d}-of-{len(files):05d}.safetensors" for n in range(1, len(files) + 1)
    ]
    for file in files:
        tensors = read_header(file)
        size = sum(info.nbytes for info in tensors.values())
        weights = {name.rpartition(".")[0] for name in tensors}
        assert size <= 40_000 or len(weights) == 1
        assert all(index["weight_map"][name] == file.name for name in tensors)
    assert index["metadata"]["total_size"] == sum(
        info.nbytes for file in files for info in read_header(file).values()
    )


def test_tensors_that_fill_pages_begin_on_one_and_nothing_has_holes(tmp_path: Path) -> None:
    wide = MOE | {"hidden_size": 512, "moe_intermediate_size": 256, "vocab_size": 2048}
    convert(bf16_model(tmp_path / "in", wide), tmp_path / "out")
    infos = list(read_header(tmp_path / "out" / "model.safetensors").values())
    infos.sort(key=lambda info: info.offset)
    for before, after in pairwise(infos):
        assert before.offset + before.nbytes == after.offset
    assert infos[0].offset % PAGE == 0
    paged = [info for info in infos if info.nbytes % PAGE == 0]
    assert all(info.offset % PAGE == 0 for info in paged)
    assert sum(i.nbytes for i in paged) > 0.9 * sum(i.nbytes for i in infos)
    # the rest still stands where its own type may be read
    width = {"U32": 4, "BF16": 2}
    assert all(info.offset % width[info.dtype] == 0 for info in infos)


def test_the_config_says_how_each_weight_is_packed(moe: Path, tmp_path: Path) -> None:
    convert(moe, tmp_path / "out", "mixed-4-6")
    values = json.loads((tmp_path / "out" / "config.json").read_text())
    block = values["quantization"]
    assert block == values["quantization_config"]
    assert (block["bits"], block["group_size"], block["mode"]) == (4, 64, "affine")
    assert block["model.layers.0.mlp.gate"] == {"bits": 8, "group_size": 64, "mode": "affine"}
    assert block["lm_head"]["bits"] == 6
    parsed = Qwen3Config.from_dir(tmp_path / "out")
    assert parsed.quantization is not None
    assert parsed.quantization.spec("model.layers.1.mlp.switch_mlp.down_proj") == QuantSpec(6, 64)


def test_spellings_of_newer_transformers_are_joined_by_the_older(tmp_path: Path) -> None:
    config = MOE | {
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e6},
        "num_local_experts": 4,
        "dtype": "bfloat16",
    }
    for key in ("rope_theta", "num_experts", "torch_dtype", "mlp_only_layers"):
        del config[key]
    write_model(tmp_path / "in", config, {n: bf16(x) for n, x in random_weights(MOE).items()})
    convert(tmp_path / "in", tmp_path / "out")
    values = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (values["rope_theta"], values["num_experts"]) == (5e6, 4)
    assert values["mlp_only_layers"] == [] and values["dtype"] == "bfloat16"
    assert "torch_dtype" not in values and "num_local_experts" not in values
    assert Qwen3Config.from_dir(tmp_path / "out").rope.theta == 5e6


def test_tokenizer_files_go_along_and_code_does_not(dense: Path, tmp_path: Path) -> None:
    (dense / "modeling_qwen3.py").write_text("import os")
    (dense / "pytorch_model.bin").write_bytes(b"pickle")
    (dense / "LICENSE").write_text("Apache")
    convert(dense, tmp_path / "out")
    names = set(all_bytes(tmp_path / "out"))
    assert {"tokenizer.json", "tokenizer_config.json", "generation_config.json", "LICENSE"} <= names
    assert not {"modeling_qwen3.py", "pytorch_model.bin", "journal.jsonl"} & names


@pytest.mark.parametrize("floats", ["float16", "float32"])
def test_floats_keep_their_type_but_float32(tmp_path: Path, floats: str) -> None:
    weights = {n: x.astype(floats) for n, x in random_weights(DENSE).items()}
    write_model(tmp_path / "in", DENSE, weights)
    convert(tmp_path / "in", tmp_path / "out")
    tensors = read_model(tmp_path / "out")
    kept = "F16" if floats == "float16" else "BF16"
    assert tensors["model.norm.weight"][0] == kept
    assert tensors["model.layers.0.mlp.up_proj.scales"][0] == kept
    convert(tmp_path / "in", tmp_path / "wide", dtype=mx.float32)
    assert read_model(tmp_path / "wide")["model.norm.weight"][0] == "F32"


# --- bad input ---------------------------------------------------------------------------------


def test_a_missing_shard(dense: Path, tmp_path: Path) -> None:
    (dense / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"1 of 3 missing: model-00002-of-00003"):
        convert(dense, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_an_unknown_tensor_is_named(tmp_path: Path) -> None:
    extra = {"model.layers.0.self_attn.q_proj.lora_A": bf16(np.ones((2, 2)))}
    write_model(tmp_path / "in", DENSE, BF16 | extra)
    with pytest.raises(
        CheckpointError, match=r"surplus model\.layers\.0\.self_attn\.q_proj\.lora_A"
    ):
        convert(tmp_path / "in", tmp_path / "out")


def test_a_missing_tensor_and_a_wrong_shape_are_one_error(tmp_path: Path) -> None:
    tensors = dict(BF16)
    del tensors["model.norm.weight"]
    tensors["model.layers.1.mlp.up_proj.weight"] = bf16(np.ones((3, 5)))
    write_model(tmp_path / "in", DENSE, tensors)
    with pytest.raises(CheckpointError) as caught:
        convert(tmp_path / "in", tmp_path / "out")
    assert "2 tensors differ" in str(caught.value)
    assert "up_proj.weight is [3, 5], expected [192, 128]" in str(caught.value)
    assert "missing model.norm.weight [128]" in str(caught.value)


def test_float_types_that_differ_need_a_choice(tmp_path: Path) -> None:
    tensors = BF16 | {"model.norm.weight": np.ones(128, np.float32)}
    source = write_model(tmp_path / "in", DENSE, tensors)
    with pytest.raises(
        CheckpointError, match=r"mixes float types.*BF16.*F32 \(model.norm.weight\)"
    ):
        convert(source, tmp_path / "out")
    convert(source, tmp_path / "out", dtype=mx.bfloat16)
    assert read_model(tmp_path / "out")["model.norm.weight"][0] == "BF16"


def test_integers_where_floats_belong(tmp_path: Path) -> None:
    tensors = BF16 | {"model.norm.weight": np.ones(128, np.int32)}
    write_model(tmp_path / "in", DENSE, tensors)
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight has dtype I32"):
        convert(tmp_path / "in", tmp_path / "out")


def test_a_shard_that_is_shorter_than_it_says(dense: Path, tmp_path: Path) -> None:
    file = dense / "model-00002-of-00003.safetensors"
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(CheckpointError, match="is cut short"):
        convert(dense, tmp_path / "out")


def test_a_shard_that_shrinks_while_it_is_read(dense: Path, tmp_path: Path) -> None:
    class Shrinking(Disk):
        def create(self, path: Path, *, append: bool = False) -> IO[bytes]:
            if path.name.endswith(".safetensors.part"):
                os.truncate(dense / "model-00003-of-00003.safetensors", 4000)
            return super().create(path, append=append)

    with pytest.raises(CheckpointError, match=r"model-00003-of-00003.*cut short.*bytes of model"):
        convert(dense, tmp_path / "out", disk=Shrinking())


def test_an_index_that_leaves_the_directory(dense: Path, tmp_path: Path) -> None:
    shutil.copy(dense / "model-00001-of-00003.safetensors", tmp_path / "x.safetensors")
    index = dense / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("model-00001-of-00003", "../x"))
    with pytest.raises(CheckpointError, match="outside the directory"):
        convert(dense, tmp_path / "out")


@pytest.mark.parametrize("recipe, columns", [("4bit", 96), ("mxfp4", 48)])
def test_a_group_that_does_not_divide(tmp_path: Path, recipe: str, columns: int) -> None:
    source = bf16_model(tmp_path / "in", DENSE | {"intermediate_size": columns})
    with pytest.raises(OptionError) as caught:
        convert(source, tmp_path / "out", recipe)
    assert f"down_proj can't be packed in groups of {64 if recipe == '4bit' else 32}" in str(
        caught.value
    )
    assert f"{columns} columns" in str(caught.value) and "hint: " in str(caught.value)


def test_an_unfit_config(dense: Path, tmp_path: Path) -> None:
    (dense / "config.json").write_text(json.dumps(DENSE | {"model_type": "llama"}))
    with pytest.raises(ConfigError, match="model_type"):
        convert(dense, tmp_path / "out")


def test_a_target_that_exists_needs_force_and_stays_until_the_new_one_is_whole(
    dense: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    convert(dense, out, "8bit")
    before = all_bytes(out)
    with pytest.raises(OptionError, match="the target exists"):
        convert(dense, out)
    assert all_bytes(out) == before and not (tmp_path / "out.part").exists()

    class Full(Disk):
        def sync(self, stream: IO[bytes]) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(CheckpointError, match="the disk is full"):
        convert(dense, out, force=True, disk=Full())
    assert all_bytes(out) == before
    convert(dense, out, force=True)
    assert all_bytes(out) != before and (out / "config.json").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dense", "out"]


def test_an_empty_target_is_no_target(dense: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    convert(dense, tmp_path / "out")
    assert (tmp_path / "out" / "config.json").exists()


@pytest.mark.parametrize("place", ["dense", "dense/mlx", "."])
def test_the_source_is_never_the_target(dense: Path, tmp_path: Path, place: str) -> None:
    before = all_bytes(dense)
    with pytest.raises(OptionError, match="lies in the source"):
        convert(dense, tmp_path / place, force=True)
    assert all_bytes(dense) == before


def test_the_source_is_not_touched(dense: Path, tmp_path: Path) -> None:
    for file in dense.iterdir():
        file.chmod(0o444)
    before, times = all_bytes(dense), {f.name: f.stat().st_mtime_ns for f in dense.iterdir()}
    dense.chmod(0o555)
    convert(dense, tmp_path / "out", verify=True)
    assert all_bytes(dense) == before
    assert {f.name: f.stat().st_mtime_ns for f in dense.iterdir()} == times
    dense.chmod(0o755)


def test_too_little_space_is_said_before_anything_is_written(dense: Path, tmp_path: Path) -> None:
    class Small(Disk):
        def free_bytes(self, path: Path) -> int:
            return 1_000_000

    with pytest.raises(CheckpointError) as caught:
        convert(dense, tmp_path / "out", disk=Small())
    assert "not enough space" in str(caught.value) and "1.0 MB free" in str(caught.value)
    assert not list(tmp_path.glob("out/*")) and not list(tmp_path.glob("out.part/*"))


def test_packing_a_packed_model_again_needs_leave(dense: Path, tmp_path: Path) -> None:
    convert(dense, tmp_path / "six", "6bit")
    with pytest.raises(OptionError, match="packed already") as caught:
        convert(tmp_path / "six", tmp_path / "four")
    assert "--allow-lossy" in str(caught.value)
    assert caught.value.summary.endswith("six, 6 bits in groups of 64, expected floats")
    convert(tmp_path / "six", tmp_path / "four", allow_lossy=True)
    assert read_model(tmp_path / "four")["model.layers.0.mlp.up_proj.weight"][1] == (192, 16)


def test_unpacking_a_packed_model_needs_no_leave(dense: Path, tmp_path: Path) -> None:
    convert(dense, tmp_path / "six", "6bit")
    convert(tmp_path / "six", tmp_path / "floats", "bf16")
    packed, _ = load_network(tmp_path / "six")
    floats, _ = load_network(tmp_path / "floats")
    tokens = mx.array([[1, 2, 3, 4]])
    want, got = packed(tokens), floats(tokens)
    # the weights were rounded to bf16 once
    assert float(((got - want) ** 2).sum() / (want**2).sum()) < 1e-4


def test_a_file_that_is_not_the_published_one(dense: Path, tmp_path: Path) -> None:
    """As in the hub's cache, where a file's name is its digest."""
    import hashlib

    base = tmp_path / "models--o--n"
    snapshot = base / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (base / "blobs").mkdir()
    for name, data in all_bytes(dense).items():
        blob = base / "blobs" / hashlib.sha256(data).hexdigest()
        blob.write_bytes(data)
        (snapshot / name).symlink_to(blob)
    convert(snapshot, tmp_path / "good")
    bad = (snapshot / "model-00002-of-00003.safetensors").resolve()
    data = bytearray(bad.read_bytes())
    data[-1] ^= 1
    bad.write_bytes(data)
    with pytest.raises(CheckpointError, match="not the file that was published"):
        convert(snapshot, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_the_bytes_of_an_array_that_lies_in_another_order() -> None:
    array = mx.arange(12, dtype=mx.uint32).reshape(3, 4).T
    mx.eval(array)
    assert bytes(pack.bytes_of(array)) == bytes(pack.bytes_of(mx.array(array.tolist(), mx.uint32)))
