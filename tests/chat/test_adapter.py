"""A loaded model with an adapter: `load(adapter=)`, the flags, and what is kept on disk."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from typer.testing import CliRunner

from qwen3_mlx import load
from qwen3_mlx.chat import prompt_store
from qwen3_mlx.cli.app import app
from qwen3_mlx.errors import CheckpointError, ModelNotFoundError
from qwen3_mlx.nn import choose_backend, fused_step

PATH = "model.layers.0.self_attn.v_proj"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """An adapter in mlx-lm's form for the bundled demo."""
    return write(tmp_path / "adapter", 3.0)


def write(directory: Path, scale: float, extra: int = 0) -> Path:
    directory.mkdir()
    rows, columns = load("demo").network.layers[0].self_attn.v_proj.weight.shape
    columns = load("demo").config.hidden_size + extra
    mx.random.seed(4)
    weights = {
        f"{PATH}.lora_a": mx.random.normal((columns, 2)),
        f"{PATH}.lora_b": mx.random.normal((2, rows)),
    }
    mx.save_safetensors(str(directory / "adapters.safetensors"), weights)
    values = {"fine_tune_type": "lora", "num_layers": -1}
    values["lora_parameters"] = {"rank": 2, "scale": scale}
    (directory / "adapter_config.json").write_text(json.dumps(values))
    return directory


def test_a_loaded_model_has_its_adapter(adapter: Path) -> None:
    plain, tuned = load("demo"), load("demo", adapter=adapter)
    tokens = mx.array([[1, 2, 3, 4]])
    assert mx.abs(plain.network(tokens) - tuned.network(tokens)).max().item() > 1e-3
    assert tuned.generate("hi", max_tokens=4, thinking=False).stats.answer_tokens <= 4


def test_the_fused_kernels_stand_aside_and_say_so(adapter: Path) -> None:
    tuned = load("demo", adapter=adapter).network
    assert "LoRA adapter" in (fused_step.unavailable_reason(tuned) or "")
    assert dict(choose_backend.reasons())["LoRA adapters"].startswith("plain operations: ")
    assert "LoRA" not in (fused_step.unavailable_reason(load("demo").network) or "")


def test_prompts_on_disk_belong_to_model_and_adapter(adapter: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other", 2.0)
    keys = [prompt_store.model_key(load("demo", adapter=a).runtime) for a in (None, adapter, other)]
    assert None not in keys and len(set(keys)) == 3
    loaded = load("demo", adapter=adapter).runtime
    (adapter / "adapter_config.json").write_text("{} ")
    assert prompt_store.model_key(loaded) is None  # it has changed since


def test_a_wrong_adapter_is_refused_before_the_weights_are_read(tmp_path: Path) -> None:
    wrong, seen = write(tmp_path / "wrong", 1.0, extra=1), []
    with pytest.raises(CheckpointError, match="another model"):
        load("demo", adapter=wrong, on_progress=lambda *done: seen.append(done))
    assert not seen


@pytest.mark.parametrize("command", ["generate", "chat"])
def test_the_flag(
    command: str, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWEN3_MLX_HOME", str(tmp_path / "home"))
    words = ["--no-think", "--temperature", "0", "--max-tokens", "8"]
    ask = ["demo", "Sort 3, 1, 2"] if command == "generate" else ["demo", "--no-save"]

    def run(*more: str) -> tuple[int, str, str]:
        done = CliRunner().invoke(
            app, [command, *ask, *words, *more], input="Sort 3, 1, 2\n" * (command == "chat")
        )
        return done.exit_code, done.stdout, done.stderr

    plain, tuned = run(), run("--adapter", str(adapter))
    assert plain[0] == tuned[0] == 0, tuned
    assert plain[1] != tuned[1]
    wrong = run("--adapter", str(tmp_path))
    assert wrong[0] == 1 and "no adapter" in wrong[2]


@pytest.mark.parametrize(
    ("given", "fetched"),
    [("/nope", False), ("./nope", False), ("nope", False), ("a/b/c", False), ("me/lora", True)],
)
def test_the_hub_is_named_where_a_repository_may_be_meant(
    given: str, fetched: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`hf download /nope` fetches nothing."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFoundError, match="no adapter") as caught:
        load("demo", adapter=given)
    hint = caught.value.hint
    assert hint is not None and hint.startswith("there is no such directory")
    assert ("hf download me/lora" in hint) == fetched == ("hf download" in hint)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("which", ["lora_a", "lora_b"])
def test_numbers_that_are_none_are_the_adapter_s_fault(
    tmp_path: Path, value: float, which: str
) -> None:
    """Fused, "the source is damaged"; beside the model, "try QWEN3_MLX_KERNELS=off"."""
    folder = write(tmp_path / "adapter", 3.0)
    file = folder / "adapters.safetensors"
    tensors = dict(mx.load(str(file)).items())
    broken = np.array(tensors[f"{PATH}.{which}"])
    broken[0, -1] = value
    mx.save_safetensors(str(file), tensors | {f"{PATH}.{which}": mx.array(broken)})
    done = [
        CliRunner().invoke(app, [*words, str(folder)])
        for words in (
            ["generate", "demo", "hi", "--adapter"],
            ["convert", "demo", "--out", str(tmp_path / "out"), "--fuse"],
        )
    ]
    for one in done:
        assert one.exit_code == 1, one.stdout
        assert f"adapter: {PATH}.{which}: got NaN or infinity, expected numbers" in one.stderr
        assert "take an earlier checkpoint of the adapter" in one.stderr
