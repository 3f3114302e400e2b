"""Parses docstrings in Google, NumPy or Sphinx style: the summary and the parameters' texts."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

_SECTION = re.compile(r"^(Args|Arguments|Parameters|Params)\s*:?\s*$")
_END = re.compile(r"^(Returns?|Raises|Yields?|Examples?|Notes?|Attributes|See Also)\s*:?\s*$")


def read_docstring(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """The description of `function`, and the texts of its parameters by name."""
    lines = (inspect.getdoc(function) or "").splitlines()
    summary: list[str] = []
    texts: dict[str, str] = {}
    name, inside, indent = "", False, 0
    for line in lines:
        bare = line.strip()
        if sphinx := re.match(r":param\s+(?:[^:]*\s)?(\w+):\s*(.*)", bare):
            name, inside, texts[sphinx[1]] = sphinx[1], False, sphinx[2]
        elif _SECTION.match(bare):
            inside, name, indent = True, "", -1
        elif _END.match(bare) or bare.startswith((":return", ":rtype", ":raise")):
            inside, name = False, "\0"
        elif bare and set(bare) <= {"-", "="}:
            continue  # NumPy's underline of a heading
        elif inside and bare:
            depth = len(line) - len(line.lstrip())
            indent = depth if indent < 0 else indent
            found = re.match(r"\*{0,2}(\w+)\s*(?:\(.*?\)|:[^:]*)?\s*(?::\s*(.*))?$", bare)
            if depth <= indent and found:
                name, texts[found[1]] = found[1], _after_name(bare)
            elif name:
                texts[name] = f"{texts[name]} {bare}".strip()
        elif name in texts and bare:
            texts[name] = f"{texts[name]} {bare}"
        elif not name:
            summary.append(bare)
    return "\n".join(summary).strip(), {key: text for key, text in texts.items() if text}


def _after_name(line: str) -> str:
    """The text in ``name (type): text``; "" for NumPy's ``name : type``."""
    if re.match(r"\w+ : ", line):
        return ""
    return re.sub(r"^\*{0,2}\w+\s*(?:\(.*?\))?\s*:?\s*", "", line)
