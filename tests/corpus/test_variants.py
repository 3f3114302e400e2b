"""Each form that people's tools write loads, converts, or is refused for a stated reason."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from qwen3_mlx.config import Qwen3Config, packing
from qwen3_mlx.errors import ConfigError
from tests.corpus.mutate import hunt
from tests.corpus.variants import CONVERTS, LOADS, Variant, variants

ALL = variants()


def test_the_corpus_is_large_and_each_form_stands_once() -> None:
    assert len(ALL) >= 150
    assert len({variant.name for variant in ALL}) == len(ALL)
    kinds = Counter(v.outcome if v.outcome in (LOADS, CONVERTS) else "refused" for v in ALL)
    assert kinds[LOADS] >= 100 and kinds[CONVERTS] >= 30 and kinds["refused"] >= 30


@pytest.mark.parametrize("variant", ALL, ids=lambda variant: variant.name)
def test_what_becomes_of_a_form(variant: Variant, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(variant.values))
    if variant.outcome == LOADS:
        assert Qwen3Config.from_dir(tmp_path).num_hidden_layers > 0
        return
    with pytest.raises(ConfigError) as caught:
        Qwen3Config.from_dir(tmp_path)
    message, _, hint = str(caught.value).partition("\nhint: ")
    if variant.outcome == CONVERTS:
        assert "convert" in hint
        assert packing.read(variant.values["quantization_config"]) is not None
    else:
        assert variant.outcome in message
        assert "convert" not in hint


def test_some_damaged_files(tmp_path: Path) -> None:
    """`python -m tests.corpus.mutate --count 20000` tries more."""
    assert hunt(tmp_path, seed=7, count=150) == []
