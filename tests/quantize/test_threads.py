"""A conversion runs in whichever thread asks for it: MLX's streams belong to one thread each."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.quantize.build import all_bytes
from tests.quantize.conftest import convert


def test_a_second_thread_converts_too(dense: Path, tmp_path: Path) -> None:
    convert(dense, tmp_path / "want")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(convert, dense, tmp_path / "out").result(60)
    assert all_bytes(tmp_path / "out") == all_bytes(tmp_path / "want")
