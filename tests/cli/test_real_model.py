"""The command line with a real, random network: nothing scripted between a name and an answer."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from qwen3_mlx.chat import journal
from qwen3_mlx.cli.app import app
from tests.hub_stub import HubStub
from tests.tiny import network

DEMO = Path(__file__).parents[2] / "qwen3_mlx" / "demo"
SECRET = "hf_not_a_real_token"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's tokenizer and template with a network of random weights."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    folder = tmp_path_factory.mktemp("random-model")
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(DEMO / name, folder)
    values = json.loads((DEMO / "config.json").read_text())
    values |= {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    names = ("num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size")
    shape = ("hidden_size", "intermediate_size", "num_hidden_layers", "tie_word_embeddings")
    net, _ = network(3, **{name: values[name] for name in (*names, *shape)})
    (folder / "config.json").write_text(json.dumps(values))
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(net.parameters())))
    return folder


def run(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, list(arguments), input=stdin)


def test_generate(model: Path) -> None:
    arguments = ("generate", str(model), "hello", "--seed", "1", "--max-tokens")
    first, again = run(*arguments, "20"), run(*arguments, "20")
    assert first.exit_code == 0 and first.stdout.endswith("\n") and len(first.stdout) > 1
    assert first.stdout == again.stdout
    record: dict[str, Any] = json.loads(run(*arguments, "20", "--json").stdout)
    assert record["answer"].strip() == first.stdout.strip()
    assert record["usage"]["answer_tokens"] + record["usage"]["thinking_tokens"] <= 20


def test_a_thought_is_cut(model: Path, tmp_path: Path) -> None:
    """A template that opens the thought: what a random network says can't be counted on to."""
    thinking = shutil.copytree(model, tmp_path / "thinking")
    config = json.loads((thinking / "tokenizer_config.json").read_text())
    config["chat_template"] = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
    )
    (thinking / "tokenizer_config.json").write_text(json.dumps(config))
    arguments = ("generate", str(thinking), "hello", "--seed", "1", "--max-tokens", "60")
    cut = json.loads(run(*arguments, "--budget", "3", "--json").stdout)
    assert (cut["thinking_cut"], cut["usage"]["thinking_tokens"]) == ("budget", 3)
    assert "Considering the limited time" in run(*arguments, "--budget", "3").output


def test_chat_saves_loads_and_uses_its_cache(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    lines = f"hi\nyou\n/stats\n/save {file}\n/clear\n/load {file}\n/retry\n/stats\n"
    result = run("chat", str(model), "--max-tokens", "9", "--no-think", stdin=lines)
    assert result.exit_code == 0, result.stderr
    second, loaded = re.findall(r"(\d+) prompt tokens \((\d+) from the cache\)", result.stderr)
    # what is loaded begins to be computed before it is asked for
    assert 0 < int(second[1]) < int(second[0]) and int(loaded[1]) < int(loaded[0])
    assert "this chat: 3 turns" in result.stderr
    saved = journal.read(file)
    assert [m["role"] for m in saved.messages] == ["user", "assistant"] * 2
    assert saved.options["thinking"] is False


def test_bad_input(model: Path) -> None:
    result = run("generate", str(model), stdin="word " * 100_000)
    assert result.exit_code == 1 and "the prompt is too long" in result.stderr
    assert "hint: " in result.stderr
    result = run("generate", str(model), "x", "--budget", "50", "--max-tokens", "50")
    assert result.exit_code == 1 and "max_tokens leaves no room" in result.stderr


def test_from_the_hub_and_then_offline(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_HUB_OFFLINE", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    env = os.environ | {"HF_HUB_CACHE": str(tmp_path / "cache"), "HF_TOKEN": SECRET}

    def process(*arguments: str) -> subprocess.CompletedProcess[str]:
        code = "from qwen3_mlx.cli import main; main()"
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            env=env | {"HF_ENDPOINT": hub.url},
        )

    with HubStub() as hub:
        hub.tokens.add(SECRET)
        hub.add("someone/tiny", model, gated=True)
        info = process("info", "someone/tiny", "--json")
        assert json.loads(info.stdout)["weight_bytes"] > 10_000, info.stderr
        assert not any(
            "model.safetensors" in r.path and r.range is None
            for r in hub.requests
            if r.method == "GET"
        )
        first = process("generate", "someone/tiny", "hi", "--max-tokens", "5", "-R")
        assert first.returncode == 0, first.stderr
        assert "downloading someone/tiny" in first.stderr
        hub.requests.clear()
        second = process("generate", "someone/tiny", "hi", "--max-tokens", "5", "-R")
        assert (second.returncode, hub.requests) == (0, [])
        assert second.stderr.count("\n") == 1 and "cut by max_tokens" in second.stderr
        hub.tokens.clear()
        refused = process("generate", "someone/other", "hi", "--debug")
        assert refused.returncode == 1 and "Traceback" in refused.stderr
        for done in (info, first, second, refused):
            assert SECRET not in done.stdout + done.stderr
