"""The short answer that a probe gets, and how sure the model is of its value.

Wording has entropy of its own ("is 12." or "is **12**"), so only the tokens of the value count.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from dataclasses import dataclass

_END = re.compile(r"\n|[.!?](?=\s)|[。！？]")
_WRAPPING = " \t*_`$\"'.!?:;,。！？"
_BOXED = re.compile(r"\\boxed\{(.*)\}", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ShortAnswer:
    """What a model would answer now."""

    value: str
    """In lower case, without emphasis, quotes and full stops around it; never empty."""
    certainty: float
    """The least of its tokens' probabilities, 0 to 1."""


def is_complete(text: str) -> bool:
    """Whether a short answer has ended within `text`: at a line's or a sentence's end."""
    said = text.lstrip()
    return _END.search(said) is not None


def short_answer(pieces: Sequence[bytes], probabilities: Sequence[float]) -> ShortAnswer | None:
    """The value that the tokens spell, and the least probability among its tokens.

    `pieces` are the tokens' bytes up to the end of the turn, or beyond the end of the answer.
    None if they spell nothing.
    """
    text = b"".join(pieces).decode("utf-8", "replace")
    start = len(text) - len(text.lstrip())
    end = _END.search(text, start)
    spelled = text[: end.start() if end else len(text)]
    boxed = _BOXED.search(spelled)
    value = (boxed[1] if boxed else spelled).strip(_WRAPPING)
    if not value:
        return None
    first = spelled.rindex(value)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    at, least = 0, 1.0
    for piece, probability in zip(pieces, probabilities, strict=True):
        after = at + len(decoder.decode(piece))
        if at < first + len(value) and max(after, at + 1) > first:  # a part of a character counts
            least = min(least, probability)
        at = after
    return ShortAnswer(" ".join(value.lower().split()), least)
