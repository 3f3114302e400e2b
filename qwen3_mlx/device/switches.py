"""Environment variables that are ``on``, ``off``, or left to the program."""

from __future__ import annotations

import os
from collections.abc import Mapping

from qwen3_mlx.errors import OptionError, shown


def switch(variable: str, environment: Mapping[str, str] | None = None) -> str:
    """The value of `variable`: ``on``, ``off`` or "". Raises `OptionError` for another."""
    value = (os.environ if environment is None else environment).get(variable, "")
    if value not in ("", "on", "off"):
        hint = f"unset {variable}"
        raise OptionError(variable, got=shown(value), expected="on or off", hint=hint)
    return value
