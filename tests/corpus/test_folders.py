"""Each folder that people's tools leave loads, converts, or is refused for a stated reason."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from qwen3_mlx import Qwen3, load
from qwen3_mlx.checkpoint.check import check
from qwen3_mlx.errors import Qwen3Error
from qwen3_mlx.quantize.formats import open_source
from tests.corpus.bases import CONVERTS, LOADS, Folder, Model
from tests.corpus.folders import folders
from tests.corpus.packed_folders import made

ALL = folders()
TOKENS = mx.array([[5, 17, 300, 42, 7, 99, 255, 3]])


def test_there_are_many_and_each_stands_once() -> None:
    assert len(ALL) >= 220
    assert len({folder.name for folder in ALL}) == len(ALL)
    kinds = Counter(f.outcome if f.outcome in (LOADS, CONVERTS) else "refused" for f in ALL)
    assert kinds[LOADS] >= 120 and kinds[CONVERTS] >= 50 and kinds["refused"] >= 45


@cache
def logits(base: str, memory: str = "/dev/shm") -> mx.array:
    """What the plain model computes."""
    import tempfile

    where = memory if Path(memory).is_dir() else None
    with tempfile.TemporaryDirectory(dir=where) as name:
        Model(base).write(Path(name))
        return computed(load(name))


def computed(model: Qwen3) -> mx.array:
    found = model.runtime.network(TOKENS)
    mx.eval(found)
    return found


def chat(path: Path) -> Qwen3:
    """Load a model and let it say a word."""
    model = load(str(path))
    model.generate("hi", max_tokens=1, seed=0)
    return model


def assert_converts(folder: Folder, path: Path) -> None:
    """Every weight that `convert` reads is the float reference."""
    dense = made(folder.tool, folder.base)[1]
    for weight in open_source(path).weights:
        block, _, projection = weight.path.partition(".switch_mlp.")
        names = [f"{block}.experts.{n}.{projection}" for n in range(len(weight.parts))]
        paths = names if projection else [weight.path]
        for part, name in zip(weight.parts, paths, strict=True):
            rows = np.array(part.open(mx.float32)(0, part.shape[0]))
            assert np.array_equal(
                rows.reshape(dense[f"{name}.weight"].shape), dense[f"{name}.weight"]
            )


@pytest.mark.parametrize("folder", ALL, ids=lambda folder: folder.name)
def test_what_becomes_of_a_folder(folder: Folder, tmp_path: Path) -> None:
    path = folder.write(tmp_path / "model")
    if folder.outcome == LOADS:
        model = chat(path)
        assert not folder.same or mx.array_equal(computed(model), logits(folder.base))
        assert open_source(path).nbytes > 0
        findings = check(path)
        assert folder.found in "\n".join(map(str, findings))
        assert folder.found or not [one for one in findings if one.severity == "error"]
        return
    with pytest.raises(Qwen3Error) as caught:
        chat(path)
    message, _, hint = str(caught.value).partition("\nhint: ")
    if folder.outcome == CONVERTS:
        assert "convert" in hint
        assert_converts(folder, path)
    else:
        assert folder.outcome in str(caught.value)
        assert "convert" not in hint and len(message) < 2000
