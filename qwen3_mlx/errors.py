"""The exceptions raised on purpose, all under `Qwen3Error`, and the helpers for their messages.

    Qwen3Error
    ├── BackendError        MLX is missing or has no backend here
    ├── ConfigError         config.json or a tokenizer file is damaged, or asks for the unsupported
    ├── CheckpointError     the weights are missing, damaged, or not those the config describes
    ├── ModelNotFoundError  a name that is neither an alias, nor a path, nor a repository
    ├── HubError            the hub can't be reached, or refuses the request
    ├── TemplateError       the chat template raises, or tries to leave its sandbox
    ├── OptionError         an invalid option, or options that exclude each other
    │   └── MessageError    messages or tools that no template can render: a TemplateError too
    ├── ContextError        the prompt has more tokens than the context
    ├── OutOfMemoryError    too little memory for the KV cache or for computing
    ├── BusyError           the queue of waiting turns is full
    ├── SessionError        a conversation can't be saved or read back
    └── ToolError           a tool server can't be started, doesn't answer, or answers invalidly

A message states what is wrong, what was found, what was expected and, on a second line, a hint.
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
        """The first line of the message: ``what: got X, expected Y``."""
        parts = []
        if self.got is not None:
            parts.append(f"got {shown(self.got, str)}")
        if self.expected is not None:
            parts.append(f"expected {self.expected}")
        return f"{self.what}: {', '.join(parts)}" if parts else self.what

    def __str__(self) -> str:
        return f"{self.summary}\nhint: {self.hint}" if self.hint else self.summary


class BackendError(Qwen3Error):
    """MLX can't be imported, or has no backend for this machine."""


class ConfigError(Qwen3Error):
    """A configuration or tokenizer file is missing, damaged, or holds an unsupported value."""


class CheckpointError(Qwen3Error):
    """Weights are missing, damaged, surplus, or differ in shape from what config.json implies."""


class ModelNotFoundError(Qwen3Error):
    """A model name is neither an alias, nor a path, nor a repository on the hub."""


class HubError(Qwen3Error):
    """The model hub can't be reached, or refuses the request."""


class TemplateError(Qwen3Error):
    """The checkpoint's chat template fails on the messages, or violates its sandbox."""


class OptionError(Qwen3Error):
    """An option has an invalid value, or options exclude each other."""


class MessageError(OptionError, TemplateError):
    """No template can render a message or a tool; `what` names it and its field."""


class ContextError(Qwen3Error):
    """The prompt has more tokens than the context."""


class OutOfMemoryError(Qwen3Error):
    """Memory ran out, or would run out; the conversation keeps the text generated so far."""


class BusyError(Qwen3Error):
    """The queue of waiting turns is full; the same request may succeed later."""


class SessionError(Qwen3Error):
    """A conversation can't be saved or read back."""


class ToolError(Qwen3Error):
    """A tool server can't be started, doesn't answer, or sends an invalid answer."""


LONGEST_SHOWN = 1000
"""Most characters of `got` in a message: the value may be the content of a whole file."""
BRIEF = 120
"""Most characters of a value that should have been short."""


def shown(
    value: object, spell: Callable[[object], str] = repr, longest: int = LONGEST_SHOWN
) -> str:
    """`spell(value)` for a message, cut after `longest` characters.

    If `spell` raises, for an int of too many digits or a faulty ``__repr__``, the type and the
    error are named instead. A lone surrogate, which no terminal takes, is spelled out.
    """
    try:
        text = spell(value).encode("utf-8", "backslashreplace").decode()
    except Exception as error:
        return f"{type(value).__name__} that can't be shown ({type(error).__name__})"
    cut = len(text) - longest
    return text if cut <= 0 else f"{text[:longest]}… and {cut:,} characters more"


def brief(value: object) -> str:
    """As `shown`, for a value that should have been short."""
    return shown(value, longest=BRIEF)


_SECRETS = re.compile(
    r"(?i:\bbearer[ :=]+|\bauthorization[\"']?[ :=]+[\"']?(?:basic +|token +)?)[\w.~+/=-]{8,}"
    r"|\b(?:hf|api|sk)_[A-Za-z0-9_-]{8,}"
    r"|(?<=//)[^/@\s\"']+:[^/@\s\"']*@"
)


def without_secrets(text: str) -> str:
    """`text` with ``…`` for all that looks like a token or password, and for the hub token's value.

    The hub token is that of HF_TOKEN and the two older environment variables.
    """
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACEHUB_API_TOKEN"):
        if len(token := os.environ.get(name, "").strip()) >= 8:
            text = text.replace(token, "…")
    return _SECRETS.sub("…", text)


def gb(size: float, digits: int = 1) -> str:
    """`size` in bytes for people: ``4.6 GB``, ``12.3 MB`` below 50 MB, ``7 kB`` below 100 kB.

    A GB is 10**9 bytes; `digits` is the number of decimals of a value in GB.
    """
    if abs(size) >= 50e6:
        return f"{size / 1e9:,.{digits}f} GB"
    return f"{size / 1e6:.1f} MB" if abs(size) >= 1e5 else f"{-(-size // 1000):.0f} kB"
