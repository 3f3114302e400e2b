from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qwen3_mlx.config import recipes
from qwen3_mlx.quantize import job, staging
from qwen3_mlx.quantize.disk import Disk
from tests.quantize.build import DENSE, MOE, bf16_model
from tests.tiny_tokenizer import write_tiny_tokenizer

IN_MEMORY = Path("/dev/shm")


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """In memory, where there is such a folder: each conversion asks for the disk 28 times."""
    if not IN_MEMORY.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as name:
        yield Path(name)


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    """A dense checkpoint in three shards, with a tokenizer."""
    model = bf16_model(tmp_path / "dense", DENSE, shards=3)
    template = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    return write_tiny_tokenizer(
        model,
        tokenizer_config={"eos_token": "<|im_end|>", "chat_template": template},
        generation_config={"temperature": 0.6},
    )


@pytest.fixture
def moe(tmp_path: Path) -> Path:
    """A Mixture of Experts, experts stored one by one."""
    return bf16_model(tmp_path / "moe", MOE)


def request(
    source: Path, out: Path, recipe: str | recipes.Recipe = "4bit", **changes: Any
) -> job.ConversionRequest:
    asked = {
        "source": source,
        "name": str(source),
        "out": out,
        "recipe": recipes.find(recipe) if isinstance(recipe, str) else recipe,
        "command": "qwen3-mlx convert …",
        "title": "tiny",
        "verify": False,
    }
    return job.ConversionRequest(**(asked | changes))


def convert(
    source: Path,
    out: Path,
    recipe: str | recipes.Recipe = "4bit",
    disk: Disk | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Convert without measuring (unless asked to); returns the record."""
    return job.run(job.prepare(request(source, out, recipe, **changes), disk=disk))


def comes_meanwhile(patch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Have `act` done while a conversion is under way, once its weights are written."""
    write = staging.write_checkpoint

    def written(*arguments: Any, **named: Any) -> Path:
        part = write(*arguments, **named)
        act()
        return part

    patch.setattr(staging, "write_checkpoint", written)
