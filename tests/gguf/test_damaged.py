"""GGUF files that are cut, mis-shaped, mis-declared, overflowing or no Qwen3's: refused by name."""

from __future__ import annotations

import contextlib
import random
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen3_mlx.checkpoint import load_network
from qwen3_mlx.errors import CheckpointError, Qwen3Error
from qwen3_mlx.gguf.header import parse, read_file
from qwen3_mlx.hub import resolve
from tests.gguf import files
from tests.quantize.conftest import convert


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN3_MLX_HOME", str(tmp_path / "home"))


def model(kind: str = "Q8_0") -> files.Gguf:
    return files.model(files.DENSE_CONFIG, files.always(kind))


def refused(data: bytes, folder: Path) -> str:
    file = folder / "m.gguf"
    file.write_bytes(data)
    with pytest.raises(Qwen3Error) as caught:
        load_network(resolve.resolve(str(file)))
    return str(caught.value)


def test_a_file_that_is_cut_anywhere(tmp_path: Path) -> None:
    built = model()
    data = files.as_bytes(built.metadata, built.tensors)
    for end in (0, 3, 8, 20, 500, 5000, len(data) // 2, len(data) - 40):
        assert "hint" in refused(data[:end], tmp_path), end


Change = Callable[[files.Gguf], None]


def said(**values: Any) -> Change:
    return lambda m: m.metadata.update({k.replace("__", "."): v for k, v in values.items()})


def lost(*names: str) -> Change:
    def change(m: files.Gguf) -> None:
        for name in names:
            m.metadata.pop(name, None)
            m.tensors.pop(name, None)

    return change


def shaped(name: str, *shape: int) -> Change:
    def change(m: files.Gguf) -> None:
        m.tensors[name] = files.Stored("F32", shape, bytes(4 * int(np.prod(shape))))

    return change


def filled(name: str, byte: int) -> Change:
    def change(m: files.Gguf) -> None:
        old = m.tensors[name]
        m.tensors[name] = files.Stored(old.kind, old.shape, bytes([byte]) * len(old.data))

    return change


WRONG: dict[str, tuple[Change, str]] = {
    "another family": (said(general__architecture="llama"), "general.architecture"),
    "no family": (lost("general.architecture"), "general.architecture"),
    "a key nobody knows": (said(qwen3__rope__twist=2), "rope.twist"),
    "a sliding window": (said(qwen3__attention__sliding_window=4096), "sliding_window"),
    "scaling of another kind": (said(qwen3__rope__scaling__type="linear"), "rope_type"),
    "half a rotation": (said(qwen3__rope__dimension_count=32), "rope.dimension_count"),
    "values of another length": (said(qwen3__attention__value_length=32), "value_length"),
    "a reranker's head": (said(qwen3__pooling_type=4), "pooling_type"),
    "more layers": (said(qwen3__block_count=3), "model.layers.2"),
    "fewer layers": (said(qwen3__block_count=1), "model.layers.1"),
    "no layers": (said(qwen3__block_count=0), "num_hidden_layers"),
    "a billion layers": (said(qwen3__block_count=10**9), "num_hidden_layers"),
    "another width": (said(qwen3__embedding_length=512), "[512"),
    "a text for a number": (said(qwen3__embedding_length="wide"), "hidden_size"),
    "another tokenizer": (said(tokenizer__ggml__model="llama"), "tokenizer"),
    "another split": (said(tokenizer__ggml__pre="llama-bpe"), "llama-bpe"),
    "no vocabulary": (lost("tokenizer.ggml.tokens"), "tokens"),
    "kinds of other tokens": (said(tokenizer__ggml__token_type=[1, 1]), "token_type"),
    "no merges": (lost("tokenizer.ggml.merges"), "merges"),
    "an end beyond all tokens": (said(tokenizer__ggml__eos_token_id=10**6), "eos_token_id"),
    "an odd alignment": (said(general__alignment=3), "alignment"),
    "a matrix is lost": (lost("blk.1.attn_k.weight"), "self_attn.k_proj"),
    "the embedding is lost": (lost("token_embd.weight"), "vocab_size"),
    "one too many": (shaped("rope_freqs.weight", 32), "rope_freqs"),
    "a matrix of another shape": (shaped("blk.1.attn_k.weight", 64, 256), "self_attn.k_proj"),
    "a vector of another length": (shaped("output_norm.weight", 128), "model.norm"),
    "scales of infinity": (filled("blk.1.attn_k.weight", 0x7C), "blk.1.attn_k"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_file_that_contradicts_itself(tmp_path: Path, case: str) -> None:
    built = model()
    change, word = WRONG[case]
    change(built)
    assert word in refused(files.as_bytes(built.metadata, built.tensors), tmp_path)


def patched(old: bytes, new: bytes) -> bytes:
    built = model()
    data = files.as_bytes(built.metadata, built.tensors)
    assert old in data
    return data.replace(old, new, 1)


NAME = files.text("blk.1.attn_k.weight")
HEAD = NAME + struct.pack("<I2QI", 2, 256, 128, files.TYPES["Q8_0"])
BYTES: dict[str, tuple[bytes, bytes, str]] = {
    "the magic": (b"GGUF", b"GGML", "GGML"),
    "a version to come": (b"GGUF\3", b"GGUF\x09", "version"),
    "big-endian": (b"GGUF\3\0\0\0", b"GGUF\0\0\0\3", "version"),
    "a text without end": (files.text("general.name"), struct.pack("<Q", 2**60), "no sound"),
    "a type of grids": (HEAD, HEAD[:-4] + struct.pack("<I", 16), "IQ2_XXS"),
    "a type to come": (HEAD, HEAD[:-4] + struct.pack("<I", 999), "999"),
    "another type": (HEAD, HEAD[:-4] + struct.pack("<I", 0), "overlaps"),
    "rows without end": (
        HEAD,
        NAME + struct.pack("<I2QI", 2, 256, 2**50, files.TYPES["Q8_0"]),
        "blk.1.attn_k",
    ),
    "half a block": (
        HEAD,
        NAME + struct.pack("<I2QI", 2, 250, 128, files.TYPES["Q8_0"]),
        "blocks of 32",
    ),
    "nine dimensions": (HEAD, NAME + struct.pack("<I2QI", 9, 256, 128, 8), "9 dimensions"),
}


@pytest.mark.parametrize("case", BYTES)
def test_a_header_that_lies(tmp_path: Path, case: str) -> None:
    old, new, word = BYTES[case]
    assert word in refused(patched(old, new), tmp_path)


def test_parts_that_do_not_belong_together(tmp_path: Path) -> None:
    parts = files.write_split(model(), tmp_path, 3)
    data = parts[1].read_bytes()
    parts[1].unlink()
    with pytest.raises(CheckpointError, match="1 of 3 missing: tiny-00002-of-00003"):
        resolve.resolve(str(parts[0]))
    parts[1].write_bytes(parts[2].read_bytes())
    with pytest.raises(CheckpointError, match="twice"):
        resolve.resolve(str(parts[0]))
    parts[1].write_bytes(data)
    parts[2].write_bytes(files.as_bytes({"split.no": 2, "split.count": 3}, {}))
    with pytest.raises(CheckpointError, match=r"split\.tensors\.count"):
        resolve.resolve(str(parts[0]))


def test_infinity_is_found_by_the_converter_too(tmp_path: Path) -> None:
    built = model("Q4_K")
    filled("blk.0.ffn_up.weight", 0x7C)(built)
    source = resolve.resolve(str(files.write(built, tmp_path / "m.gguf")))
    with pytest.raises(CheckpointError, match=r"up_proj\.weight holds NaN or infinity"):
        convert(source, tmp_path / "out", "8bit")


def test_any_byte_of_the_header_may_be_wrong(tmp_path: Path) -> None:
    built = model()
    data = files.as_bytes(built.metadata, built.tensors)
    end = data.index(files.text("output_norm.weight")) + 100
    rng, file = random.Random(7), tmp_path / "m.gguf"
    for _ in range(600):
        wrong = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 8))):
            wrong[rng.randrange(end)] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
        file.write_bytes(wrong)
        start = time.monotonic()
        with contextlib.suppress(Qwen3Error):
            read_file(file)
        assert time.monotonic() - start < 10


def test_a_list_that_would_fill_the_memory_is_refused_before_it_is_made(tmp_path: Path) -> None:
    """Of a header's byte Python makes an object of 36 bytes."""
    for inner, count in ((1, 2**25 + 1), (2, 2**25), (8, 2**40)):
        head = struct.pack("<4sIQQ", b"GGUF", 3, 0, 1)
        head += files.text("list") + struct.pack("<IIQ", 9, inner, count)
        with pytest.raises(CheckpointError, match=r"an array of|a value of"):
            parse(head, 2**40, tmp_path / "m.gguf")
