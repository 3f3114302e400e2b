"""The libraries of others that tests here use, imported by the first test that does."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import pytest


class Later:
    """A module that is imported when something of it is asked for.

    Each of pytest's processes collects all files, and these libraries take a second each.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):  # pytest asks whether this is a test or a fixture
            raise AttributeError(attribute)
        return getattr(importlib.import_module(self._name), attribute)


def library(name: str) -> Any:
    """The module, `Later`; without it the tests of the file that asks are skipped."""
    if importlib.util.find_spec(name) is None:
        reason = f"no {name}: uv sync --group clients"
        pytest.skip(reason, allow_module_level=True)
    return Later(name)
