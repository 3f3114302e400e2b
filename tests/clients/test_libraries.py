"""Libraries that speak to the server in their own ways: each block of docs/serve.md, run."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clients.documented import blocks
from tests.clients.served import THOUGHT, Served, call, results


def python(served: Served, client: str, package: str, home: Path) -> list[str]:
    """Run the block of `client`, which is to end well; the lines that it printed."""
    need(package)
    (code,) = blocks(client, served.url)
    return run([sys.executable, "-c", code], home)


def run(command: list[str], home: Path, **more: str) -> list[str]:
    """The lines that a command prints, in a home of its own and without the user's variables."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {"HOME": str(home), "PATH": path, **more}
    done = subprocess.run(
        command, cwd=home, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def need(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"no {package}: uv sync --group clients")


def adds(prompt: str) -> str:
    """Calls the tool, then answers with its result."""
    found = results(prompt)
    return f"It is {found[-1]}." if found else THOUGHT + call("add", a=2, b=2)


def test_openai(served: Served, tmp_path: Path) -> None:
    served.say(THOUGHT + "It is 4.")
    assert python(served, "openai", "openai", tmp_path)[-1] == "It is 4."


def test_anthropic(served: Served, tmp_path: Path) -> None:
    served.say(THOUGHT + "It is 4.")
    assert python(served, "anthropic", "anthropic", tmp_path) == ["It is 4."]


def test_instructor(served: Served, tmp_path: Path) -> None:
    def fills(prompt: str) -> str:
        return THOUGHT + (call("Sum", result=4) if "<tools>" in prompt else '{"result": 4}')

    served.say(fills)
    assert python(served, "instructor", "instructor", tmp_path) == ["4", "4"]


def test_pydantic_ai(served: Served, tmp_path: Path) -> None:
    served.say(adds)
    assert python(served, "pydantic-ai", "pydantic_ai", tmp_path) == ["It is 4."]
    assert len(served.turns) == 2


def test_openai_agents(served: Served, tmp_path: Path) -> None:
    served.say(adds)
    assert python(served, "openai-agents", "agents", tmp_path) == ["It is 4."] * 2
    assert len(served.turns) == 4


def test_litellm(served: Served, tmp_path: Path) -> None:
    served.say(THOUGHT + "It is 4.")
    assert python(served, "litellm", "litellm", tmp_path) == ["It is 4."] * 2


def test_llm(served: Served, tmp_path: Path) -> None:
    need("llm")
    served.say(lambda prompt: adds(prompt) if "<tools>" in prompt else "It is 4.")
    models, commands = blocks("llm", served.url)
    (tmp_path / "extra-openai-models.yaml").write_text(models, "utf-8")
    for command in commands.splitlines():
        said = run(["sh", "-c", command], tmp_path, LLM_USER_PATH=str(tmp_path))
        assert said == ["It is 4."]
    assert len(served.turns) == 3


def test_qwen_agent(served: Served, tmp_path: Path) -> None:
    served.say(adds)
    assert python(served, "Qwen-Agent", "qwen_agent", tmp_path) == ["It is 4."] * 2
    assert len(served.turns) == 4
