import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tokenizers import decoders

from qwen3_mlx.errors import ConfigError, OptionError
from qwen3_mlx.options.thinking_budget import STOP_TEXT
from qwen3_mlx.text import Tokenizer, tokenizer
from qwen3_mlx.text.tokenizer import LONG
from tests.tiny_tokenizer import MARKERS, tiny_backend, write_tiny_tokenizer

TEXTS = [
    "",
    "Hello",
    "  two  spaces\n\n",
    "你好 👩‍👩‍👧‍👦 مرحبا",
    "é\x00\x7f",
    "<think>\n</think>\n\nx<|im_end|>",
]


@pytest.fixture(scope="module")
def tiny() -> Tokenizer:
    return Tokenizer(tiny_backend())


@pytest.fixture(scope="module")
def real(qwen3_files: Path) -> Tokenizer:
    return Tokenizer.from_dir(qwen3_files)


@pytest.mark.parametrize("text", TEXTS)
def test_decode_undoes_encode(tiny: Tokenizer, text: str) -> None:
    assert tiny.decode(tiny.encode(text)) == text


@pytest.mark.parametrize("text", TEXTS)
def test_decode_undoes_encode_with_the_real_vocabulary(real: Tokenizer, text: str) -> None:
    assert real.decode(real.encode(text)) == text


def test_markers_in_text_become_single_ids(tiny: Tokenizer) -> None:
    for marker in MARKERS:
        assert tiny.encode(f"a{marker}b").count(tiny.token_id(marker)) == 1
    assert tiny.encode("</think>") == [tiny.think_close]


def test_real_marker_ids(real: Tokenizer) -> None:
    assert (real.think_open, real.think_close) == (151667, 151668)
    assert (real.tool_open, real.tool_close, real.im_end) == (151657, 151658, 151645)
    assert real.token_id("<|endoftext|>") == 151643
    assert real.vocab_size == 151669


def test_the_largest_id_is_the_last_token_s_or_that_of_an_added_one(
    tiny: Tokenizer, real: Tokenizer
) -> None:
    assert real.largest_id == 151668 == real.vocab_size - 1
    assert tiny.largest_id == max(map(tiny.token_id, MARKERS)) == tiny.vocab_size - 1
    assert Tokenizer(tiny_backend([])).largest_id == tiny.vocab_size - 1 - len(MARKERS)


def test_stop_text_is_24_tokens_and_closes_with_the_marker(real: Tokenizer) -> None:
    ids = real.encode(STOP_TEXT)
    assert len(ids) == 24
    assert ids.count(real.token_id("</think>")) == 1
    assert real.decode(ids) == STOP_TEXT


def test_bytes_of_ids_are_the_bytes_of_the_text(real: Tokenizer) -> None:
    for text in TEXTS:
        ids = real.encode(text)
        assert b"".join(map(real.id_to_bytes, ids)) == text.encode()


def test_bytes_of_a_marker_that_byte_level_could_not_spell() -> None:
    spaced = Tokenizer(tiny_backend(["<a b>", "<思考>"]))
    ids = spaced.encode("x<a b>y<思考>z")
    assert len(ids) == 5
    assert b"".join(map(spaced.id_to_bytes, ids)) == "x<a b>y<思考>z".encode()


def test_unused_rows_add_nothing(real: Tokenizer) -> None:
    assert real.id_to_bytes(151900) == b""
    assert real.decode([151900, *real.encode("hi")]) == "hi"


def test_a_missing_marker_is_none_and_an_error_by_name() -> None:
    plain = Tokenizer(tiny_backend(markers=["<|endoftext|>"]))
    assert plain.think_open is plain.think_close is plain.tool_open is plain.im_end is None
    with pytest.raises(ConfigError, match="'<think>'"):
        plain.token_id("<think>")


def test_text_with_lone_surrogates_is_refused(tiny: Tokenizer) -> None:
    with pytest.raises(OptionError, match="lone surrogate"):
        tiny.encode("a\udce9b")
    with pytest.raises(OptionError, match="lone surrogate"):
        tiny.encode("a" * LONG + "\udce9")
    with pytest.raises(OptionError, match="bytes"):
        tiny.encode(b"abc")


def test_truncation_and_padding_of_the_file_are_switched_off(tmp_path: Path) -> None:
    backend = tiny_backend()
    backend.enable_truncation(2)
    backend.enable_padding(length=64)
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.from_dir(tmp_path)
    assert tokenizer.decode(tokenizer.encode("The quick brown fox")) == "The quick brown fox"


EOS = [
    ({"generation_config": {"eos_token_id": ["<|im_end|>", "<|endoftext|>"]}}, "both"),
    ({"generation_config": {"eos_token_id": "<|endoftext|>"}}, "both"),
    ({"generation_config": {}, "config": {"eos_token_id": "<|endoftext|>"}}, "both"),
    ({"tokenizer_config": {"eos_token": "<|endoftext|>"}}, "both"),
    ({"tokenizer_config": {"eos_token": {"content": "<|endoftext|>"}}}, "both"),
    ({"generation_config": {"eos_token_id": None}, "tokenizer_config": {"eos_token": None}}, "im"),
    # generation_config.json comes first: what the others say is not added to it
    (
        {
            "generation_config": {"eos_token_id": "<|im_end|>"},
            "config": {"eos_token_id": "<|endoftext|>"},
        },
        "im",
    ),
    ({}, "im"),
]


@pytest.mark.parametrize(("files", "expected"), EOS)
def test_end_tokens(tmp_path: Path, files: dict[str, dict[str, object]], expected: str) -> None:
    backend = tiny_backend()

    def with_ids(value: object) -> object:
        if isinstance(value, list):
            return [with_ids(item) for item in value]
        return backend.token_to_id(value) if isinstance(value, str) else value

    for values in files.values():
        if "eos_token_id" in values:
            values["eos_token_id"] = with_ids(values["eos_token_id"])
    tokenizer = Tokenizer.from_dir(write_tiny_tokenizer(tmp_path, **files))
    names = ["<|im_end|>"] + ["<|endoftext|>"] * (expected == "both")
    assert tokenizer.eos_ids == {tokenizer.token_id(name) for name in names}


@pytest.mark.parametrize("value", ["<|im_end|>", -1, 1.5, [1, "2"], True, {"a": 1}])
def test_end_tokens_that_are_no_ids(tmp_path: Path, value: object) -> None:
    write_tiny_tokenizer(tmp_path, generation_config={"eos_token_id": value})
    with pytest.raises(ConfigError, match=r"generation_config\.json: eos_token_id"):
        Tokenizer.from_dir(tmp_path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?s)no tokenizer\.json.*hint: "):
        Tokenizer.from_dir(tmp_path)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff\xfe", b'{"model": {"type": "BPE"'])
def test_damaged_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"(?s)unreadable tokenizer\.json.*hint: "):
        Tokenizer.from_dir(tmp_path)


@pytest.mark.parametrize("content", ["[1]", "{", '"text"', "[" * 100_000])
def test_damaged_configuration_beside_it(tmp_path: Path, content: str) -> None:
    write_tiny_tokenizer(tmp_path)
    (tmp_path / "generation_config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"generation_config\.json"):
        Tokenizer.from_dir(tmp_path)


def test_only_byte_level_tokenizers(tmp_path: Path) -> None:
    backend = tiny_backend()
    backend.decoder = decoders.Metaspace()
    backend.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ConfigError, match=r"(?s)got Metaspace, expected ByteLevel.*hint: "):
        Tokenizer.from_dir(tmp_path)


def test_text_never_imports_mlx_and_waits_with_jinja2_and_tokenizers() -> None:
    code = "import sys, json, qwen3_mlx.text; print(json.dumps(sorted(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in json.loads(run.stdout)}
    assert "qwen3_mlx" in loaded
    assert loaded.isdisjoint({"mlx", "jinja2", "tokenizers", "transformers", "numpy"})


@pytest.mark.parametrize("more", [-1, 0, 1, 5000])
def test_a_long_text_has_the_ids_of_a_short_one(
    tiny: Tokenizer, monkeypatch: pytest.MonkeyPatch, more: int
) -> None:
    text = ("<think>\nÉté 17 * 23 = 391 </think> e\u0301 <tool_call>" * 400)[: LONG + more]
    ids, letters = tiny.encode(text), tiny.encode_letters(text)
    monkeypatch.setattr(tokenizer, "LONG", 10**9)
    assert (ids, letters) == (tiny.encode(text), tiny.encode_letters(text))


def test_other_threads_run_while_a_long_text_is_encoded(tiny: Tokenizer) -> None:
    """A server's streams stood still for 5 s while it counted the tokens of 920,000 characters."""
    ticks, over = 0, threading.Event()

    def tick() -> None:
        nonlocal ticks
        while not over.wait(0.001):
            ticks += 1

    beside = threading.Thread(target=tick)
    beside.start()
    before, began = ticks, time.perf_counter()
    tiny.encode("the quick brown fox " * 50_000)
    took, during = time.perf_counter() - began, ticks - before
    over.set()
    beside.join()
    assert took > 0.05 and during > 100 * min(took, 0.2)
