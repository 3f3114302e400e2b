"""`convert --fuse`: the result computes what the model with its adapter computes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mlx.core as mx
import pytest
from typer.testing import CliRunner, Result

from qwen3_mlx.checkpoint import load_network
from qwen3_mlx.checkpoint.adapter import attach, read_adapter
from qwen3_mlx.cli.app import app
from qwen3_mlx.quantize.formats import Source, Weight, open_source
from qwen3_mlx.quantize.formats.fused import fuse
from tests.checkpoint.test_adapters import ADAPTERS, NAMES, golden, rewrite, spoiled
from tests.checkpoints import GOLDEN, GOLDEN_BOUND
from tests.oracle import assert_close, nmse
from tests.quantize.build import all_bytes


def convert(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["convert", *map(str, arguments)])


@pytest.mark.parametrize("name", NAMES)
def test_the_fused_model_is_the_adapted_one(name: str, tmp_path: Path) -> None:
    base, tokens, want = golden(name)
    out = tmp_path / "out"
    done = convert(
        *(GOLDEN / base, "--fuse", ADAPTERS / name, "--out", out, "--no-verify"),
        *("--recipe", "bf16", "--dtype", "float32"),
    )
    assert done.exit_code == 0, done.stderr
    network, _ = load_network(out)
    assert_close(network(tokens), want, bound=GOLDEN_BOUND)
    record = json.loads((out / "conversion.json").read_text())
    assert record["adapter"] == name
    assert record["command"].startswith(f"qwen3-mlx convert {base} --out out --recipe bf16")
    assert f"--fuse {name}" in record["command"]
    published = "".join((out / file).read_text() for file in ("README.md", "conversion.json"))
    assert not [folder for folder in (GOLDEN, ADAPTERS, tmp_path) if str(folder) in published]
    assert "LoRA adapter fused in" in (out / "README.md").read_text()


def packed_base(tmp_path: Path, base: str = "dense-tied") -> Path:
    done = convert(GOLDEN / base, "--out", tmp_path / "packed", "--recipe", "8bit", "--no-verify")
    assert done.exit_code == 0, done.stderr
    return tmp_path / "packed"


def test_a_packed_base_is_unpacked_fused_and_packed_again(tmp_path: Path) -> None:
    base, tokens, _ = golden("plain")
    packed, out = packed_base(tmp_path, base), tmp_path / "out"
    ask = (packed, "--fuse", ADAPTERS / "plain", "--out", out, "--recipe", "8bit")
    refused = convert(*ask)
    assert refused.exit_code == 1 and "--allow-lossy" in refused.stderr
    done = convert(*ask, "--allow-lossy")
    assert done.exit_code == 0, done.stderr
    network, config = load_network(out)
    assert config.quantization is not None
    beside, config = load_network(packed)
    attach(beside, read_adapter(ADAPTERS / "plain", config))
    far = nmse(load_network(packed)[0](tokens), beside(tokens))
    assert nmse(network(tokens), beside(tokens)) < far / 100  # 8 bits cost less than it changes
    path = "model.layers.1.mlp.down_proj"
    rows = weight_of(fuse(open_source(packed), ADAPTERS / "plain"), path).parts[0]
    module = dict(beside.named_modules())[path]
    base = module.base
    unpacked = mx.dequantize(base.weight, base.scales, base.biases, base.group_size, base.bits)
    product = module.lora_b @ module.lora_a
    assert_close(rows.open(mx.float32)(0, 64), unpacked.astype(mx.float32) + product, bound=1e-9)


def weight_of(source: Source, path: str) -> Weight:
    return next(weight for weight in source.weights if weight.path == path)


def test_another_adapter_is_another_conversion(tmp_path: Path) -> None:
    """The key of a result holds the adapter: factors, scale and all."""
    source = open_source(GOLDEN / "dense-tied")
    louder = spoiled(tmp_path, lora_alpha=7)
    prints = {
        source.fingerprint(),
        fuse(source, ADAPTERS / "plain").fingerprint(),
        fuse(source, louder).fingerprint(),
    }
    assert len(prints) == 3


def test_experts_are_fused_block_by_block() -> None:
    """Blocks that begin and end inside an expert, of a stack and of single experts."""
    base, _, _ = golden("moe-parameters")
    fused = fuse(open_source(GOLDEN / base), ADAPTERS / "moe-parameters")
    weight = weight_of(fused, "model.layers.0.mlp.switch_mlp.up_proj")
    reader = weight.parts[2].open(mx.float32)
    whole = reader(0, weight.shape[1])
    assert_close(mx.concatenate([reader(0, 5), reader(5, 12)]), whole)
    assert nmse(whole, weight.parts[2].base.open(mx.float32)(0, 12)) > 1e-6  # type: ignore[attr-defined]


def test_fuse_refuses_what_load_refuses(tmp_path: Path) -> None:
    adapter = spoiled(tmp_path, "rslora-head")
    name = "base_model.model.lm_head.base_layer.weight"
    rewrite(adapter, "adapter_model.safetensors", lambda w: w | {name: w[name] + 0.1})
    out = tmp_path / "out"
    done = convert(GOLDEN / "dense-untied", "--fuse", adapter, "--out", out)
    assert done.exit_code == 1 and "brings its own lm_head" in done.stderr
    done = convert(GOLDEN / "dense-tied", "--fuse", ADAPTERS / "regex", "--out", out)
    assert done.exit_code == 1 and "another model" in done.stderr
    done = convert(GOLDEN / "dense-tied", "--fuse", tmp_path / "none", "--out", out)
    assert done.exit_code == 1 and "no adapter" in done.stderr
    file = ADAPTERS / "plain" / "adapter_model.safetensors"
    done = convert(GOLDEN / "dense-tied", "--fuse", file, "--out", out)
    assert f"hint: give the directory that holds it: {file.parent}" in done.stderr
    fused = ("--fuse", ADAPTERS / "plain", "--out", out)
    done = convert(GOLDEN / "dense-tied", *fused, "--learned", "dwq")
    assert done.exit_code == 1 and "--fuse and --learned" in done.stderr
    assert not out.exists()


@pytest.mark.parametrize("out", ["adapter", "adapter/out", "adapter/deep/out"])
@pytest.mark.parametrize("way", [("--dry-run",), ("--force",), ("--shares", "2", "--pipeline"), ()])
def test_nothing_is_written_into_the_adapter(
    tmp_path: Path, out: str, way: tuple[str, ...]
) -> None:
    base, adapter = golden("plain")[0], spoiled(tmp_path)
    before = all_bytes(adapter)
    typed = ("--fuse", adapter, "--out", tmp_path / out, "--no-verify", *way)
    done = convert(GOLDEN / base, *typed)
    assert done.exit_code == 1 and "--out lies in the adapter" in done.stderr
    assert all_bytes(adapter) == before and not (adapter / "deep").exists()
    assert sorted(tmp_path.iterdir()) == [adapter]


def test_the_card_of_a_fused_model_calls_it_no_packing_of_its_base(tmp_path: Path) -> None:
    """The hub lists what is packed alone among the base model's packings."""
    snapshot = tmp_path / "models--Qwen--Qwen3-0.6B" / "snapshots" / ("a" * 40)
    shutil.copytree(GOLDEN / golden("plain")[0], snapshot)
    for adapter, recipe, told in (
        ((), "8bit", "quantized"),
        (("--fuse", ADAPTERS / "plain"), "8bit", "finetune"),
        (("--fuse", ADAPTERS / "plain"), "bf16", "finetune"),
    ):
        done = convert(
            snapshot, "--out", tmp_path / "out", "--recipe", recipe, "--dry-run", *adapter
        )
        assert done.exit_code == 0, done.stderr
        assert f"- Qwen/Qwen3-0.6B\nbase_model_relation: {told}\n" in done.stdout
