"""Completion: typer asks and answers the shells; ours are the words for models, ids and keys."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qwen3_mlx.chat import journal
from qwen3_mlx.cli.app import app
from qwen3_mlx.cli.settings import folders, settings
from qwen3_mlx.config.recipes import RECIPES
from qwen3_mlx.hub import releases
from qwen3_mlx.options import GenerationOptions
from tests.cli.commands.test_models import cached

ROOT = Path(__file__).parents[3]
PROGRAM = "import sys; from qwen3_mlx.cli import main; sys.argv[0] = 'qwen3-mlx'; main()"
ASKED = "What's up: $HOME [/b] `touch a` $(touch b) \\$(touch c) \"; touch d\n?"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, with a released model, one of someone's, and half of a third."""
    folder = tmp_path / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", str(folder))
    cached(folder, "mlx-community/Qwen3-8B-4bit")
    cached(folder, "me/Qwen3-tuned", revision="v2")
    (cached(folder, "me/Qwen3-half") / "tokenizer.json").unlink()
    return folder


@pytest.fixture
def kept(state_home: Path) -> str:
    """The id of a kept conversation whose first message is full of what shells evaluate."""
    file = journal.ChatJournal(folders.sessions() / "2026-01-31-101500-1f2e.jsonl")
    file.keep("demo", GenerationOptions(), [{"role": "user", "content": ASKED}])
    file.close()
    return file.path.stem


def words(line: str) -> list[str]:
    """What the last word of `line` may become."""
    line = f"qwen3-mlx {line}"
    asked = {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    asked["_QWEN3_MLX_COMPLETE"] = "complete_bash"
    done = CliRunner().invoke(app, [], env=asked, prog_name="qwen3-mlx")
    assert (done.exit_code, done.stderr) == (0, "")
    return done.stdout.split()


ALIASES = [release.alias for release in releases.RELEASES]
COMMANDS = ["chat", "generate", "serve", "info", "models", "embed", "rerank", "convert"]
COMMANDS += ["bench", "doctor", "launch", "follow"]


@pytest.mark.parametrize(
    ("line", "want"),
    [
        ("ch", ["chat"]),
        ("--ver", ["--version"]),
        ("chat coder", ["coder-30b", "coder-480b"]),
        ("chat me/", ["me/Qwen3-tuned@v2"]),
        ("info --json 4b-t", ["4b-thinking-2507"]),
        ("chat 8b ", []),  # one model is enough
        ("chat --show-thinking ", list(settings.SHOW_THINKING)),
        ("chat --budget 8 --bud", []),  # given already
        ("chat --resume --budget 8 coder-4", ["coder-480b"]),
        ("convert 14b --recipe mixed", ["mixed-4-6"]),
        ("config get show", ["show_thinking"]),
        ("config set theme ", [*settings.THEMES, "default"]),
        ("config set plain ", ["true", "false", "default"]),
        ("config set model coder-4", ["coder-480b"]),
        ("config set nothing ", []),
        ("sessions export ", ["md", "json"]),
        ("models ", []),  # directories, which the shell knows
        ("chat 'open", []),
    ],
)
def test_what_a_line_may_go_on_with(cache: Path, line: str, want: list[str]) -> None:
    assert words(line) == want


def test_models_recipes_keys_commands(cache: Path) -> None:
    here = ["demo", "demo-moe", "demo-tools", "8b", "me/Qwen3-tuned@v2"]
    elsewhere = [alias for alias in ALIASES if alias != "8b"]
    for command in ("chat", "generate", "info", "bench"):
        assert words(f"{command} ") == here + elsewhere
    retrieval = [release.alias for release in releases.RETRIEVAL]
    assert words("convert ") == ALIASES + retrieval
    assert words("convert 8b --recipe ") == list(RECIPES)
    assert words("config unset ") == list(settings.KEYS)
    assert words("") == [*COMMANDS, "sessions", "config"]
    assert "--budget" in words("chat 8b --")


def test_kept_conversations(cache: Path, kept: str, state_home: Path) -> None:
    (state_home / "sessions" / "2026-02-01-000000-ffff.jsonl").write_text("no conversation")
    for line in ("chat --resume ", "sessions show 2026", "sessions rm x ", "sessions export md "):
        assert words(line) == [kept]
    assert words("chat --resume --bud") == ["--budget"]


def test_a_broken_configuration_does_not_matter(cache: Path, state_home: Path) -> None:
    state_home.mkdir()
    (state_home / "config.toml").write_text("= broken")
    assert words("config ed") == ["edit"]
    assert words("chat 8") == ["8b"]


def test_neither_mlx_nor_the_hub_is_imported(cache: Path, kept: str) -> None:
    """A person waits."""
    code = (
        "import atexit, sys\n"
        "slow = ('mlx', 'textual', 'transformers', 'huggingface_hub')\n"
        "atexit.register(lambda: print(*{*slow} & {*sys.modules}, file=sys.stderr))\n"
    )
    for line in ("qwen3-mlx chat ", "qwen3-mlx convert --recipe ", "qwen3-mlx sessions show "):
        done = subprocess.run(
            [sys.executable, "-c", code + PROGRAM],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=os.environ | {"_TYPER_COMPLETE_ARGS": line, "_QWEN3_MLX_COMPLETE": "complete_zsh"},
        )
        assert done.stdout.startswith("_arguments") and done.stderr == "\n", done.stderr


# ── the shells, with the scripts that typer installs ─────────────────────────────────────────


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, and a program `qwen3-mlx` first on the path."""
    folder, home = tmp_path / "bin", tmp_path / "home"
    folder.mkdir()
    home.mkdir()
    program = folder / "qwen3-mlx"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n{PROGRAM}"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    return home


def run_in(shell: str, home: Path, script: str, code: str, option: str) -> list[str]:
    """Install completion as a person does, run `code` with {script} in it; returns its lines."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed; typer's answer to bash is tested above")
    install = ["qwen3-mlx", "--install-completion", shell]
    done = subprocess.run(install, capture_output=True, text=True, cwd=home)
    assert done.returncode == 0, done.stderr
    text = (home / script).read_text()
    done = subprocess.run(
        [shell, option, "-c", code.replace("{script}", text)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=home,
    )
    assert done.stderr == "" and not list(home.glob("?")), done.stderr
    return done.stdout.split("\n")


def test_in_bash(home: Path, cache: Path, kept: str) -> None:
    code = (
        "{script}\n"
        'go() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _qwen3_mlx_completion qwen3-mlx;'
        ' echo "${COMPREPLY[*]}"; }\n'
        "go qwen3-mlx chat me/\ngo qwen3-mlx sessions show ''\n"
    )
    found = run_in("bash", home, ".bash_completions/qwen3-mlx.sh", code, "--norc")
    assert found[:2] == ["me/Qwen3-tuned@v2", kept]


def test_in_fish(home: Path, cache: Path, kept: str) -> None:
    code = "{script}\n" + "; ".join(
        f"complete -C 'qwen3-mlx {line}'" for line in ("chat me/", "sessions show ")
    )
    found = run_in("fish", home, ".config/fish/completions/qwen3-mlx.fish", code, "--no-config")
    assert found[0] == "me/Qwen3-tuned@v2\ton this machine"
    assert found[1].startswith(f"{kept}\t") and "What s up:  HOME" in found[1]


def test_in_zsh(home: Path, cache: Path, kept: str) -> None:
    """The answer is code that zsh runs; its function that shows a list evaluates it once more."""
    code = (
        "compdef() { }; _files() { print files }\n{script}\n"
        "_arguments() { a=${1#*: :}; eval ws=\\( ${a[3,-3]} \\); print -r -- $ws }\n"
        'go() { words=("$@"); CURRENT=$#; _qwen3_mlx_completion }\n'
        "go qwen3-mlx chat me/\ngo qwen3-mlx sessions show ''\ngo qwen3-mlx info ./\n"
    )
    found = run_in("zsh", home, ".zfunc/_qwen3-mlx", code, "-f")
    assert found[0] == "me/Qwen3-tuned@v2:on this machine"
    assert found[1].startswith(f"{kept}:") and "Whats up" not in found[1]
    assert found[2] == "files"
