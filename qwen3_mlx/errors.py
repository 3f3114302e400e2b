"""Every error a user can cause, as one tree.

    Qwen3Error
    ├── BackendError        MLX is missing or has no backend here
    ├── ConfigError         config.json or the tokenizer's files say something we can't honour
    ├── CheckpointError     the weights are missing, damaged, or not those the config describes
    ├── ModelNotFoundError  a name that is no alias, no path and no repository
    ├── HubError            the hub can't be reached, or refuses
    ├── TemplateError       the chat template raises, or tries to leave its sandbox
    ├── OptionError         an option, or two together, that can't be honoured
    │   └── MessageError    messages or tools that no template can render: a TemplateError too
    ├── ContextError        more tokens than the context holds
    ├── OutOfMemoryError    the machine has no more memory for keys and values, or for computing
    ├── BusyError           too much is waiting already
    ├── SessionError        a conversation can't be saved or read back
    └── ToolError           a tool server can't be started, asked or understood

A message says what is wrong, what was found, what was expected, and, on a second line, a hint.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable


class Qwen3Error(Exception):
    """Base of all errors raised on purpose: ``what: got X, expected Y`` and a ``hint:`` line."""

    def __init__(
        self,
        what: str,
        *,
        got: object = None,
        expected: object = None,
        hint: str | None = None,
    ) -> None:
        self.what, self.got, self.expected, self.hint = what, got, expected, hint
        super().__init__(what)

    @property
    def summary(self) -> str:
        """The first line: what, got, expected."""
        parts = []
        if self.got is not None:
            parts.append(f"got {_shortened(shown(self.got, str))}")
        if self.expected is not None:
            parts.append(f"expected {self.expected}")
        return f"{self.what}: {', '.join(parts)}" if parts else self.what

    def __str__(self) -> str:
        return f"{self.summary}\nhint: {self.hint}" if self.hint else self.summary


class BackendError(Qwen3Error):
    """MLX can't be imported, or has no backend for this machine."""


class ConfigError(Qwen3Error):
    """A configuration file holds a key or value this package can't honour."""


class CheckpointError(Qwen3Error):
    """Weights are missing, damaged, surplus or of another shape than the config says."""


class ModelNotFoundError(Qwen3Error):
    """A model name that means nothing here."""


class HubError(Qwen3Error):
    """The model hub can't be reached, or refuses the request."""


class TemplateError(Qwen3Error):
    """The checkpoint's chat template fails on these messages."""


class OptionError(Qwen3Error):
    """An option's value, or a combination of options, that can't be honoured."""


class MessageError(OptionError, TemplateError):
    """A message or a tool that no template can render; `what` names it and its field."""


class ContextError(Qwen3Error):
    """The prompt needs more tokens than the context holds."""


class OutOfMemoryError(Qwen3Error):
    """Memory ran out, or would: what was said so far is kept."""


class BusyError(Qwen3Error):
    """Too many turns are waiting already: the same request may be taken later."""


class SessionError(Qwen3Error):
    """A conversation can't be written or read back."""


class ToolError(Qwen3Error):
    """A tool server can't be started, asked or understood."""


LONGEST_SHOWN = 1000
"""Characters of `got` in a message: it may quote a whole file of somebody's."""


def _shortened(text: str) -> str:
    cut = len(text) - LONGEST_SHOWN
    return text if cut <= 0 else f"{text[:LONGEST_SHOWN]}… and {cut:,} characters more"


def shown(value: object, spell: Callable[[object], str] = repr) -> str:
    """`value` as a message quotes it, also where Python can't: an endless number, a lying object.

    `spell` is what turns it into text.
    """
    try:
        return _shortened(spell(value))
    except Exception as error:
        return f"{type(value).__name__} that can't be shown ({type(error).__name__})"


BRIEF = 120
"""Characters of what somebody gave in place of something short."""


def brief(value: object, spell: Callable[[object], str] = repr) -> str:
    """As `shown`, its beginning alone: what was given may be anything."""
    text = shown(value, spell)
    return text if len(text) <= BRIEF else f"{text[:BRIEF]}…"


_SECRETS = re.compile(
    r"(?i:\bbearer[ :=]+|\bauthorization[\"']?[ :=]+[\"']?(?:basic +|token +)?)[\w.~+/=-]{8,}"
    r"|\b(?:hf|api|sk)_[A-Za-z0-9_-]{8,}"
    r"|(?<=//)[^/@\s\"']+:[^/@\s\"']*@"
)


def without_secrets(text: str) -> str:
    """`text` without what looks like a token or a password, and without HF_TOKEN's value."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACEHUB_API_TOKEN"):
        if len(token := os.environ.get(name, "").strip()) >= 8:
            text = text.replace(token, "…")
    return _SECRETS.sub("…", text)


def gb(size: float, digits: int = 1) -> str:
    """Bytes as people read them: ``4.6 GB``, ``12.3 MB`` below 50 MB, ``7 kB`` below 100 kB.

    A GB is 10**9 bytes; `digits` are those of GB.
    """
    if abs(size) >= 50e6:
        return f"{size / 1e9:,.{digits}f} GB"
    return f"{size / 1e6:.1f} MB" if abs(size) >= 1e5 else f"{-(-size // 1000):.0f} kB"
