"""The README and the pages beside it: two commands, and links and commands that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
RUNNING = [page for page in PAGES if page.name not in ("CHANGELOG.md", "log.md")]


def test_two_commands_start_it_and_ci_runs_them() -> None:
    first, second = re.findall(r"```sh\n(.*?)\n```", README, re.DOTALL)[0].splitlines()
    install, chat = first.split(" && ")
    assert chat == ".uv/bin/uv run qwen3-mlx chat"
    assert second == ".uv/bin/uv run pytest"
    assert install.replace("install", "install -q") in (ROOT / ".ci" / "run").read_text("utf-8")
    assert ".ci/readme" in (ROOT / ".github" / "workflows" / "linux.yml").read_text("utf-8")


def test_one_short_table_of_numbers() -> None:
    table = README.partition("## Numbers")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert 1 <= len(rows) <= 8
    assert max(map(len, rows)) <= 160


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)#\s]+)", text)
    dead = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not dead


@pytest.mark.parametrize("page", RUNNING, ids=lambda page: page.name)
def test_commands_name_files_that_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    modules = re.findall(r"python -m ((?:benchmarks|training|docs|convert)[\w.]*\w)", text)
    paths = [module.replace(".", "/") for module in modules]
    paths = [f"{path}/__main__.py" if (ROOT / path).is_dir() else f"{path}.py" for path in paths]
    paths += re.findall(
        r"(?:pytest |python |`)((?:tests|docs|benchmarks|training)/[\w/]+\.py)", text
    )
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert not missing
