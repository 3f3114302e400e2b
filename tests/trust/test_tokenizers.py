"""Tokenizers of other kinds are refused when they are read, and a panic is an error of ours."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import qwen3_mlx
from qwen3_mlx.errors import ConfigError
from qwen3_mlx.text import Tokenizer

DEMO = Path(qwen3_mlx.__file__).parent / "demo"


def with_part(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    folder.mkdir()
    content = json.loads((DEMO / "tokenizer.json").read_text("utf-8"))
    change(content)
    (folder / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    return folder


PRECOMPILED = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
SPLIT = {"type": "Split", "behavior": "Isolated", "invert": False}
KINDS = [
    ("normalizer", PRECOMPILED),
    ("normalizer", {"type": "Lowercase"}),
    ("normalizer", {"type": "Sequence", "normalizers": [PRECOMPILED]}),
    ("normalizer", {"type": "Prepend", "prepend": "x" * 1000}),
    ("pre_tokenizer", {"type": "FixedLength", "length": 0}),
    ("pre_tokenizer", {"type": "Metaspace", "replacement": "x", "prepend_scheme": "always"}),
    ("pre_tokenizer", {"type": "Whitespace"}),
    ("pre_tokenizer", None),
    ("pre_tokenizer", {"type": "Sequence", "pretokenizers": [{"type": "Digits"}]}),
    ("decoder", {"type": "WordPiece", "prefix": "##", "cleanup": True}),
    ("decoder", None),
    ("model", {"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "b"}),
    ("model", {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 9}),
    ("model", {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "b"}),
    ("added_tokens", 5),
]


@pytest.mark.parametrize(("part", "value"), KINDS)
def test_other_kinds(tmp_path: Path, part: str, value: Any) -> None:
    folder = with_part(tmp_path / "t", lambda content: content.update({part: value}))
    with pytest.raises(ConfigError, match=r"tokenizer"):
        Tokenizer.from_dir(folder)


def test_a_pattern_that_explodes(tmp_path: Path) -> None:
    """Qwen's kind, but a regular expression without end: the library panics."""
    evil = SPLIT | {"pattern": {"Regex": r"(x+x+)+y|((a+)+)+b"}}
    folder = with_part(
        tmp_path / "t",
        lambda content: content["pre_tokenizer"]["pretokenizers"].insert(0, evil),
    )
    tokenizer = Tokenizer.from_dir(folder)
    with pytest.raises(ConfigError, match="the tokenizer fails on a text"):
        tokenizer.encode("x" * 40 + " " + "a" * 5000)


def test_an_unknown_token_that_is_missing(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["model"] |= {"unk_token": "nowhere", "vocab": {"a": 0}, "merges": []}

    folder = with_part(tmp_path / "t", change)
    with pytest.raises(ConfigError, match=r"fails on a text|unreadable tokenizer"):
        Tokenizer.from_dir(folder).encode("hi")


def test_a_panic_in_the_chat(tmp_path: Path) -> None:
    """The command line says it in two lines."""
    from typer.testing import CliRunner

    from qwen3_mlx.cli.app import app

    model = shutil.copytree(DEMO, tmp_path / "model")
    content = json.loads((model / "tokenizer.json").read_text("utf-8")) | {
        "normalizer": PRECOMPILED
    }
    (model / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    result = CliRunner().invoke(app, ["generate", str(model), "hi"])
    assert result.exit_code == 1
    assert "tokenizer" in result.output
    assert "hint: " in result.output
    assert "Traceback" not in result.output


def test_the_demos_are_of_qwens_kind() -> None:
    for name in ("demo", "demo-moe", "demo-tools"):
        assert Tokenizer.from_dir(DEMO.parent / name).encode("hi")
