"""docs/serve.md names every path, every word for thinking, and what efforts mean."""

from __future__ import annotations

from pathlib import Path

from qwen3_mlx.serve import guard, thinking
from qwen3_mlx.serve.app import ROUTES
from tests.serve.test_thinking_words import EFFORTS, OFF, SAME

TEXT = (Path(__file__).parents[2] / "docs" / "serve.md").read_text("utf-8")


def test_every_path() -> None:
    for path, _, _ in ROUTES:
        assert f"`{path.replace('{id:path}', '{id}')}`" in TEXT or f" {path}`" in TEXT, path


def test_every_word_for_thinking() -> None:
    for body in [*SAME, *OFF, *EFFORTS]:
        for name, value in body.items():
            inner = [f"{name}.{key}" for key in value] if isinstance(value, dict) else [name]
            assert any(one in TEXT for one in (*inner, f"`{name}`")), body
    for word, limit in thinking.EFFORTS.items():
        assert word in TEXT and (not limit or f"{word} {limit:,}" in TEXT)


def test_the_numbers() -> None:
    assert f"at most {guard.MOST_BODY // 2**20} MiB" in TEXT
    assert f"within {guard.BODY_SECONDS:.0f} seconds" in TEXT
    assert f"below {thinking.LEAST_THINKING} there is no thinking" in TEXT
