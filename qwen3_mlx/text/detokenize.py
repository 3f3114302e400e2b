"""Token ids to text as they come: only complete characters, at a constant cost per token."""

from __future__ import annotations

import codecs

from qwen3_mlx.text.tokenizer import Tokenizer


class StreamDetokenizer:
    """Collects the bytes of tokens and hands out what is complete UTF-8.

    All pieces joined are ``tokenizer.decode(ids)``: bytes that can't be UTF-8 become U+FFFD the
    same way, as soon as that is certain.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._bytes_of = tokenizer.id_to_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """The text that `token` completes: "" while a character is still open."""
        return self._decoder.decode(self._bytes_of(token))

    def flush(self) -> str:
        """The rest of the text; an unfinished character is U+FFFD. The next `push` begins anew."""
        return self._decoder.decode(b"", final=True)
