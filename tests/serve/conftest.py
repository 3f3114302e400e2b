"""The bundled model, served for a whole file of tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from qwen3_mlx.model import Qwen3, load
from tests.serve.page_stub import CHROMIUM, Script, scripted
from tests.serve.server import Server, serving


@pytest.fixture(scope="session")
def demo() -> Qwen3:
    return load("demo")


@pytest.fixture(scope="module")
def server(demo: Qwen3) -> Iterator[Server]:
    with serving(demo) as one:
        yield one


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="needs the group clients (playwright)")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def script() -> Script:
    return Script()


@contextmanager
def opened(browser: Any, script: Script, faults: list[str]) -> Iterator[Any]:
    """The page, whose console's errors go to `faults`, and what it asks of other hosts."""
    context = browser.new_context(viewport={"width": 800, "height": 700})
    page = context.new_page()
    page.set_default_timeout(20_000)
    page.on("pageerror", lambda error: faults.append(str(error)))
    with scripted(script) as url:
        page.on("request", lambda asked: asked.url.startswith(url) or faults.append(asked.url))
        page.goto(url)
        yield page
        context.close()


@pytest.fixture
def page(browser: Any, script: Script) -> Iterator[Any]:
    """The page, whose console must stay silent and which asks its own host only."""
    faults: list[str] = []
    with opened(browser, script, faults) as page:
        yield page
    assert faults == []


@pytest.fixture(scope="module")
def one_page(browser: Any) -> Iterator[tuple[Any, list[str]]]:
    """A page for all tests of a file, and its faults."""
    faults: list[str] = []
    with opened(browser, Script(), faults) as page:
        yield page, faults
    assert faults == []


@pytest.fixture
def drawing(one_page: tuple[Any, list[str]]) -> Iterator[Any]:
    """The page for a test that draws only what it says, beside the page's own elements.

    Its console must stay silent, too. Opening a page anew takes longer than most such tests.
    """
    page, faults = one_page
    yield page
    page.evaluate("0")  # what the page has to say has come before the answer
    found, faults[:] = list(faults), []
    assert found == []
