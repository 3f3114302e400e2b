"""Kernels compiled ahead: the texts of the step that follows, and nothing read beyond an array."""

from __future__ import annotations

import qwen3_mlx.device.backend  # noqa: F401  (chooses the BLAS before mlx is imported)

import mlx.core as mx
import pytest

from qwen3_mlx.metal import compile_ahead, launch, tuning
from qwen3_mlx.metal.variants import Signature, text_key, variants
from qwen3_mlx.metal.variants_rows import variants_of_rows

DENSE = Signature(1024, 4, 2, 1536, 512, mx.bfloat16, (4, 64), head_dim=128)
MOE = Signature(1024, 4, 2, 256, 512, mx.bfloat16, (4, 64), (8, 64), experts=16, top_k=8)


@pytest.mark.parametrize("staged", [False, True])
@pytest.mark.parametrize("network", [DENSE, MOE])
def test_one_group_reads_what_it_is_given(
    network: Signature, staged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a bound that cuts each matrix: the shim refuses a read behind an array's end."""
    monkeypatch.setattr(tuning, "staged", lambda: staged)
    monkeypatch.setattr(compile_ahead, "FEW", 1 << 12)
    monkeypatch.setattr(compile_ahead, "MOST", 1 << 16)
    listed = [*variants(network), *(() if staged else variants_of_rows(network))]
    every = [one for one in listed if one.kernel != "gather_matmul"]
    short = [compile_ahead.one_group(one) for one in every]
    assert [text_key(a) for a in short] == [text_key(b) for b in every]
    cut = [
        name
        for a, b in zip(short, every, strict=True)
        for name in a.inputs
        if a.inputs[name].shape != b.inputs[name].shape
    ]
    assert len(cut) >= 4
    for a, b in zip(short, every, strict=True):
        assert launch.distinct(a)[1] == launch.distinct(b)[1], "another text would be compiled"
        assert {k: x.size < 8 for k, x in a.inputs.items()} == {
            k: x.size < 8 for k, x in b.inputs.items()
        }, "another address space"
    assert compile_ahead.compile_ahead(every) == len(every)
