"""A tokenizer saved without tokenizer.json is the same tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qwen3_mlx.errors import ConfigError
from qwen3_mlx.text import Tokenizer

TEXT = (
    "<|im_start|>user\nIt's 2026: 17 * 23 = 391, isn't it?\r\n\r\n  naïve café — 你好，世界！ 🙂 "
    "\u0041\u030a def f(x):\n\treturn x**2  # <think>\n<|im_end|>\n   "
)


def take_apart(source: Path, folder: Path) -> Path:
    """Write what tokenizer.json of `source` holds as vocab.json and merges.txt."""
    values = json.loads((source / "tokenizer.json").read_text("utf-8"))
    config = json.loads((source / "tokenizer_config.json").read_text("utf-8"))
    model, added = values["model"], values["added_tokens"]
    names = {token["content"] for token in added}
    vocabulary = {name: n for name, n in model["vocab"].items() if name not in names}
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", "utf-8")
    config["added_tokens_decoder"] = {
        str(token["id"]): {key: value for key, value in token.items() if key != "id"}
        for token in added
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def check(source: Path, folder: Path) -> None:
    whole, parts = Tokenizer.from_dir(source), Tokenizer.from_dir(take_apart(source, folder))
    for text in (TEXT, *TEXT.split(" "), TEXT * 3):
        ids = whole.encode(text)
        assert parts.encode(text) == ids
        assert parts.decode(ids) == whole.decode(ids)
    assert parts.eos_ids == whole.eos_ids
    assert (parts.think_open, parts.im_end) == (whole.think_open, whole.im_end)


def test_qwens_own(qwen3_files: Path, tmp_path: Path) -> None:
    check(qwen3_files, tmp_path)


def test_tokens_that_do_not_fit_the_vocabulary(qwen3_files: Path, tmp_path: Path) -> None:
    folder = take_apart(qwen3_files, tmp_path)
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text())
    config["added_tokens_decoder"]["999999"] = {"content": "<|new|>"}
    file.write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="of different models"):
        Tokenizer.from_dir(folder)


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_a_damaged_part(tmp_path: Path, name: str) -> None:
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    (tmp_path / name).write_text("{" if name == "vocab.json" else "a b c d\n")
    with pytest.raises(ConfigError, match="unreadable"):
        Tokenizer.from_dir(tmp_path)


def test_one_part_is_not_enough(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"no tokenizer\.json"):
        Tokenizer.from_dir(tmp_path)
