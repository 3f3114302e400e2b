"""How a checkpoint is known again without reading all of it: which bytes and times count."""

from __future__ import annotations

import hashlib
import os
import random
from pathlib import Path

import pytest

from qwen3_mlx.checkpoint.fingerprint import digest_of_file, fingerprint, stamp
from tests.checkpoints import copy

STEP = 8192
DATA = (6000).to_bytes(8, "little") + random.Random(5).randbytes(16 * STEP - 8)
"""A file whose header of 6,000 bytes is longer than the first sample; 16 samples of 4,096 bytes."""


def digest(tmp_path: Path, data: bytes) -> str:
    file = tmp_path / "weights"
    file.write_bytes(data)
    return digest_of_file(file)


def test_a_weight_file_s_digest_is_of_its_size_its_header_and_sixteen_samples(
    tmp_path: Path,
) -> None:
    """The same on all machines: by this rule they compare what they hold."""
    samples = [DATA[at : at + 4096] for at in range(0, len(DATA), STEP)]
    known = b"".join([b"131072\n", DATA[8:6008], *samples])
    assert digest(tmp_path, DATA) == hashlib.sha256(known).hexdigest()


@pytest.mark.parametrize(
    ("place", "counts"),
    [
        (0, True),
        (6007, True),  # the header's last byte
        (6008, False),
        (STEP - 1, False),
        (STEP, True),
        (STEP + 4095, True),
        (STEP + 4096, False),
        (15 * STEP + 4095, True),
        (16 * STEP - 1, False),
    ],
)
def test_which_bytes_of_a_weight_file_count(tmp_path: Path, place: int, counts: bool) -> None:
    other = bytearray(DATA)
    other[place] ^= 1
    assert (digest(tmp_path, bytes(other)) != digest(tmp_path, DATA)) is counts


def test_sixteen_megabytes_of_a_file_without_a_header_s_length_are_read(tmp_path: Path) -> None:
    file, size = tmp_path / "model.gguf", 3 << 24
    found = []
    for place in (None, 8 + 2**24 - 1, 8 + 2**24):
        with file.open("wb") as stream:
            stream.write(b"GGUF\3\0\0\0")
            stream.truncate(size)
            if place is not None:
                stream.seek(place)
                stream.write(b"x")
        found.append(digest_of_file(file))
    assert found[0] == found[2] != found[1]


def test_every_file_that_a_prompt_depends_on_changes_the_fingerprint(tmp_path: Path) -> None:
    model = copy("dense-untied", tmp_path)
    (model / "additional_chat_templates").mkdir()
    texts = ["tokenizer_config.json", "chat_template.jinja", "additional_chat_templates/t.jinja"]
    for name in texts:
        (model / name).write_text("{}")
    seen = [fingerprint(model)]
    for name in texts:
        (model / name).write_text("[]")
        seen.append(fingerprint(model))
    weights = model / "model.safetensors"
    os.utime(weights, ns=(5, 5))
    seen.append(fingerprint(model))
    (model / "new.json").write_text("")
    seen.append(fingerprint(model))
    assert len(set(seen)) == len(seen)
    (model / "._new.json").write_text("what macOS leaves beside a file")
    (model / "README.md").write_text("said of the model")
    assert fingerprint(model) == seen[-1]


def test_a_stamp_has_names_sizes_and_times(tmp_path: Path) -> None:
    model = copy("dense-untied", tmp_path)
    weights = model / "model.safetensors"
    os.utime(weights, ns=(7, 7))
    assert ("model.safetensors", weights.stat().st_size, 7) in stamp(model)
    assert "config.json" in [name for name, _, _ in stamp(model)]
    weights.unlink()
    assert stamp(model) == () == stamp(tmp_path / "nowhere")
