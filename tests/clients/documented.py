"""The blocks of docs/serve.md, which the tests run: what is documented is what was tried."""

from __future__ import annotations

import re
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs" / "serve.md"
ADDRESS = "http://127.0.0.1:8080"


def blocks(client: str, url: str) -> list[str]:
    """The fenced blocks under the heading `client`, with `url` for the address."""
    text = DOCUMENT.read_text("utf-8")
    _, found, rest = text.partition(f"\n### {client}\n")
    assert found, f"no {client} in {DOCUMENT.name}"
    section = re.split(r"\n##+ ", rest)[0]
    assert ADDRESS in section
    return [block.replace(ADDRESS, url) for block in re.findall(r"```\w+\n(.*?)```", section, re.S)]
