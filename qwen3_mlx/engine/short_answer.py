"""The short answer of a probe, and the model's certainty of its value.

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
    """The answer that a model would give now."""

    value: str
    """In lower case, without surrounding emphasis, quotes and full stops; never empty."""
    certainty: float
    """The lowest probability of its tokens, 0 to 1."""


def is_complete(text: str) -> bool:
    """Whether `text` contains the end of a short answer: the end of a line or a sentence."""
    said = text.lstrip()
    return _END.search(said) is not None


def short_answer(pieces: Sequence[bytes], probabilities: Sequence[float]) -> ShortAnswer | None:
    """The value that the tokens spell, and the lowest probability among its tokens.

    pieces: the tokens' bytes, up to the end of the turn or beyond the end of the answer. None if
    they spell no value.
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
