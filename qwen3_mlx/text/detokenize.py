"""Incremental decoding of token ids: complete characters only, at constant cost per token."""

from __future__ import annotations

import codecs

from qwen3_mlx.text.tokenizer import Tokenizer


class StreamDetokenizer:
    """Collects the bytes of tokens and returns complete UTF-8 characters.

    All pieces joined equal ``tokenizer.decode(ids)``: invalid bytes become U+FFFD in the same way,
    as soon as they are certain to be invalid.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._bytes_of = tokenizer.id_to_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """The text that `token` completes; "" while a character is incomplete."""
        return self._decoder.decode(self._bytes_of(token))

    def flush(self) -> str:
        """End the text; returns its rest, with U+FFFD for an incomplete character."""
        return self._decoder.decode(b"", final=True)
