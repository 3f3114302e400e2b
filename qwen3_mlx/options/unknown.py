"""What is said of an option that doesn't exist: which is meant, or where its meaning lives."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from qwen3_mlx.errors import OptionError, shown

_ELSEWHERE = {
    "system": 'session(system="…"), or a first message {"role": "system", "content": "…"}',
    "stream": "model.stream(…) yields the events while they are computed",
    "max_new_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "budget": "thinking_budget",
    "enable_thinking": "thinking",
    "response_format": "schema=a JSON schema, or regex=a pattern",
    "do_sample": "temperature=0 is greedy",
}
"""What other libraries call things, and where they are here."""


def unknown_option(name: object, known: Iterable[str]) -> OptionError:
    """The error for `name`, which is none of the `known` options."""
    names = sorted(known)
    hint = _ELSEWHERE.get(str(name))
    if hint is None and (close := difflib.get_close_matches(str(name), names, n=1, cutoff=0.7)):
        hint = f"did you mean {close[0]}?"
    expected = f"one of {', '.join(names)}"
    return OptionError("unknown option", got=shown(name), expected=expected, hint=hint)
