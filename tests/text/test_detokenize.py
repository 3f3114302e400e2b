import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from qwen3_mlx.text import StreamDetokenizer, Tokenizer
from tests.tiny_tokenizer import MARKERS, tiny_backend

TEXT = "Emoji 👩‍👩‍👧‍👦🇫🇷, 中文，日本語, العربية, Ελληνικά, e\u0301, \u200b, tabs\t\n\n" * 2


@pytest.fixture(scope="module")
def tiny() -> Tokenizer:
    return Tokenizer(tiny_backend())


def stream(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    detokenizer = StreamDetokenizer(tokenizer)
    return [*map(detokenizer.push, ids), detokenizer.flush()]


def random_ids(tokenizer: Tokenizer, rng: random.Random, length: int) -> list[int]:
    """Any tokens, single bytes (mostly broken), markers, and real text, mixed."""
    single = [tokenizer.encode(chr(code))[0] for code in range(0x80)]
    single += [i for i in range(300) if len(tokenizer.id_to_bytes(i)) == 1]
    markers = [tokenizer.token_id(marker) for marker in MARKERS]
    ids: list[int] = []
    while len(ids) < length:
        kind = rng.randrange(5)
        if kind == 0:
            ids += rng.choices(range(tokenizer.vocab_size), k=5)
        elif kind == 1:
            ids += rng.choices(single, k=6)
        elif kind == 2:
            ids.append(rng.choice(markers))
        else:
            start = rng.randrange(len(TEXT))
            ids += tokenizer.encode(TEXT[start : start + 10])[: rng.randrange(1, 12)]
    return ids


def check_random(tokenizer: Tokenizer, seed: int, cases: int) -> None:
    rng = random.Random(seed)
    broken = 0
    for _ in range(cases):
        ids = random_ids(tokenizer, rng, rng.randrange(1, 80))
        expected = tokenizer.decode(ids)
        assert "".join(stream(tokenizer, ids)) == expected
        broken += "\ufffd" in expected
    assert broken > cases / 2  # the cases are hard ones


def test_joined_pieces_are_the_full_decode(tiny: Tokenizer) -> None:
    check_random(tiny, seed=1, cases=400)


def test_joined_pieces_are_the_full_decode_with_the_real_vocabulary(qwen3_files: Path) -> None:
    check_random(Tokenizer.from_dir(qwen3_files), seed=2, cases=400)


def test_every_pair_of_bytes(tiny: Tokenizer) -> None:
    of_byte = {tiny.id_to_bytes(i): i for i in range(tiny.vocab_size)}
    ids = [of_byte[bytes([value])] for value in range(256)]
    for first in ids[0x60::3]:
        for second in ids[0x60::3]:
            assert "".join(stream(tiny, [first, second])) == tiny.decode([first, second])


def test_pieces_are_whole_characters(tiny: Tokenizer) -> None:
    ids = tiny.encode(TEXT)
    pieces = stream(tiny, ids)
    assert "".join(pieces) == tiny.decode(ids)
    assert "" in pieces  # some tokens end inside a character
    assert not any("\ufffd" in piece for piece in pieces)


def test_an_unfinished_character_comes_out_at_flush(tiny: Tokenizer) -> None:
    detokenizer = StreamDetokenizer(tiny)
    of_byte = {tiny.id_to_bytes(i): i for i in range(tiny.vocab_size)}
    face = [of_byte[bytes([value])] for value in "😀".encode()]
    assert [detokenizer.push(token) for token in face[:3]] == ["", "", ""]
    assert detokenizer.flush() == "\ufffd"
    assert "".join(map(detokenizer.push, face)) == "😀"  # starts afresh
    assert detokenizer.flush() == ""


def test_a_token_costs_the_same_however_long_the_text() -> None:
    class Counting:
        asked = 0

        def id_to_bytes(self, token: int) -> bytes:
            self.asked += 1
            return b"ab"

    counting = Counting()
    detokenizer = StreamDetokenizer(counting)  # type: ignore[arg-type]
    assert {detokenizer.push(0) for _ in range(1000)} == {"ab"}
    assert counting.asked == 1000
