"""Token ids that no vocabulary has, at every public entry: refused before MLX sees them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import qwen3_mlx
from qwen3_mlx.engine.decode import Decoder
from qwen3_mlx.engine.prefill import prefill
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.engine.sample import Sampler
from qwen3_mlx.engine.token_ids import check_token_ids
from qwen3_mlx.engine.warm import warm
from qwen3_mlx.errors import ConfigError, OptionError
from qwen3_mlx.options import Sampling
from qwen3_mlx.text import Tokenizer
from tests.tiny import network

DEMO = Path(qwen3_mlx.__file__).parent / "demo"
ROWS = 24
BEYOND: list[Any] = [ROWS, ROWS + 1, 2**16, 4_000_000, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63]
BEYOND += [-1, -ROWS, -(2**31), 10**30, 1.0, True, None, "1"]
PENALISED = Sampling(0.7, 0.9, 20, repetition_penalty=1.1, presence_penalty=1.0)


@pytest.mark.parametrize("id", BEYOND, ids=repr)
def test_the_engine(id: Any) -> None:
    net, _ = network(1)
    for ids in ([id], [1, id], [id, 1]):
        with pytest.raises(OptionError, match=r"token id: got .*, expected whole numbers from 0"):
            prefill(net, ids, PromptCache(net))
        with pytest.raises(OptionError, match="token id"):
            warm(net, ids, PromptCache(net))
        with pytest.raises(OptionError, match="token id"):
            Sampler(PENALISED, ROWS, ids)
    with pytest.raises(OptionError, match="token id"):
        Sampler(PENALISED, ROWS, bias={id: 1.0})
    cache = PromptCache(net)
    logits = prefill(net, [1, 2], cache)
    assert logits is not None
    decoder = Decoder(net, cache, Sampler(PENALISED, ROWS, [1, 2], eos=[id] if id else []), logits)
    with pytest.raises(OptionError, match="token id"):
        decoder.inject([id])
    assert 0 <= decoder.step() < ROWS


def test_ids_that_are_there() -> None:
    check_token_ids([], 1)
    check_token_ids([0, ROWS - 1, 5], ROWS)


@pytest.mark.parametrize("id", [-1, 2**32, 2**40, -(2**70), 1.5, "a", None, True], ids=repr)
def test_the_tokenizer(id: Any) -> None:
    tokenizer = Tokenizer.from_dir(DEMO)
    with pytest.raises(OptionError, match="token id"):
        tokenizer.id_to_bytes(id)
    if id is not True:
        with pytest.raises(OptionError, match="token ids"):
            tokenizer.decode([1, id])
    assert tokenizer.id_to_bytes(2**32 - 1) == b""


@pytest.mark.parametrize("id", [2048, 100_000, 4_000_000, 2**31, 2**32 - 1])
@pytest.mark.parametrize("where", ["added", "vocabulary"])
def test_a_tokenizer_with_more_ids_than_the_embedding(tmp_path: Path, id: int, where: str) -> None:
    """Its file came with the model: loading says so, or the prompt that has such an id."""
    model = shutil.copytree(DEMO, tmp_path / "model")
    content = json.loads((model / "tokenizer.json").read_text("utf-8"))
    if where == "added":
        named = next(one for one in content["added_tokens"] if one["content"] == "<|im_start|>")
        named["id"] = id
    content["model"]["vocab"]["h" if where == "vocabulary" else "<|im_start|>"] = id
    (model / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    with pytest.raises((ConfigError, OptionError), match="token id"):
        qwen3_mlx.load(model).generate("h h h", max_tokens=4, repetition_penalty=1.1)


@pytest.mark.parametrize("id", [2048, 2**31, 2**32, -1, "x", 1.5])
def test_options(id: Any) -> None:
    model = qwen3_mlx.load("demo")
    with pytest.raises(OptionError, match="logit_bias"):
        model.generate("hi", logit_bias={id: 1.0})
