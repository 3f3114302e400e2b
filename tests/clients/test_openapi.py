"""docs/openapi.json says what the routes take; no request like it, or nearly so, breaks them."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs import make_openapi
from tests.clients.conftest import DEMO
from tests.clients.model import loaded
from tests.clients.served import Served, scripted_server

CHECKS = (
    *("not_a_server_error", "content_type_conformance", "response_schema_conformance"),
    "status_code_conformance",
)
SECONDS = 20
needs = pytest.mark.skipif(
    importlib.util.find_spec("schemathesis") is None,
    reason="no schemathesis: uv sync --group clients",
)


@pytest.fixture
def brief(tmp_path: Path) -> Iterator[Served]:
    """A server whose context ends what a random network says in a form that a schema allows."""
    with scripted_server(loaded(tmp_path, DEMO, context=512)) as one:
        yield one


def test_the_document_is_what_the_readers_take() -> None:
    text = make_openapi.FILE.read_text("utf-8")
    assert text == make_openapi.document(), "run: python -m docs.make_openapi"


def test_every_route_is_in_it() -> None:
    paths = json.loads(make_openapi.FILE.read_text("utf-8"))["paths"]
    found = {(path, method.upper()) for path, methods in paths.items() for method in methods}
    assert found == {(path, method) for path, method, _ in make_openapi.operations()}


def test_it_is_valid() -> None:
    validator = pytest.importorskip(
        "openapi_spec_validator", reason="no openapi-spec-validator: uv sync --group clients"
    )
    validator.validate(json.loads(make_openapi.FILE.read_text("utf-8")))


@needs
@pytest.mark.slow
def test_no_request_breaks_the_server(brief: Served, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("st")), "run", str(make_openapi.FILE)]
    command += ["--url", brief.url, "--checks", ",".join(CHECKS), "--seed", "1", "--no-color"]
    command += ["--request-timeout", "20", "--max-time", str(SECONDS), "--continue-on-failure"]
    command += ["--phases", "examples,coverage,fuzzing"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=10 * SECONDS
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr
    generated = re.search(r"(\d+) generated", done.stdout)
    assert generated and int(generated[1]) > 50, done.stdout[-3000:]
    assert brief.turns
    assert brief.server.ok("/v1/completions", {"prompt": "Hi"})["choices"]
