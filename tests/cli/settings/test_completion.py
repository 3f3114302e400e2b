"""Completion: what a line may go on with, and the three shells' ways of asking and being told."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from qwen3_mlx.chat import journal as store
from qwen3_mlx.cli.app import app
from qwen3_mlx.cli.settings import completion, folders, settings
from qwen3_mlx.config.recipes import RECIPES
from qwen3_mlx.hub import releases
from qwen3_mlx.options import GenerationOptions
from tests.cli.commands.test_models import cached

ROOT = Path(__file__).parents[3]
PROGRAM = "import sys; from qwen3_mlx.cli import main; sys.argv[0] = 'qwen3-mlx'; main()"


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
    """The id of a kept conversation."""
    journal = store.ChatJournal(folders.sessions() / "2026-01-31-101500-1f2e.jsonl")
    journal.keep("demo", GenerationOptions(), [{"role": "user", "content": "What's up: $HOME?"}])
    journal.close()
    return journal.path.stem


def words(line: str) -> list[str]:
    """What the last word of `line` may become."""
    *before, incomplete = line.split(" ")
    program = typer.main.get_command(app)
    return [word for word, _ in completion.candidates(program, before, incomplete)]


ALIASES = [release.alias for release in releases.RELEASES]
COMMANDS = ["chat", "generate", "info", "models", "convert", "bench", "doctor"]


@pytest.mark.parametrize(
    ("line", "want"),
    [
        ("ch", ["chat"]),
        ("--ver", ["--version"]),
        ("chat coder", ["coder-30b", "coder-480b"]),
        ("chat me/", ["me/Qwen3-tuned@v2"]),
        ("info --json 4b-t", ["4b-thinking-2507"]),
        ("chat 8b ", []),  # one model is enough
        ("generate 8b ", []),
        ("chat --show-thinking ", list(settings.SHOW_THINKING)),
        ("chat --show-thinking=l", ["--show-thinking=live"]),
        ("chat --show-thinking = l", ["live"]),  # as bash breaks it
        ("chat --budget 8", []),
        ("chat --bud", ["--budget"]),
        ("chat --budget 8 --bud", []),  # given already
        ("chat --think --no-t", []),
        ("chat --resume --budget 8 coder-4", ["coder-480b"]),
        ("convert 14b --recipe mixed", ["mixed-4-6"]),
        ("convert --recipe 4bit --verify 14", ["14b"]),
        ("config g", ["get"]),
        ("config get show", ["show_thinking"]),
        ("config set max", ["max_tokens"]),
        ("config set theme ", [*settings.THEMES, "default"]),
        ("config set plain ", ["true", "false", "default"]),
        ("config set budget ", ["default"]),
        ("config set model coder-4", ["coder-480b"]),
        ("config set nothing ", []),
        ("sessions export ", ["md", "json"]),
        ("bench --against ", ["mlx-lm"]),
        ("models ", []),  # directories, which the shell knows
        ("nothing ", []),
    ],
)
def test_what_a_line_may_go_on_with(cache: Path, line: str, want: list[str]) -> None:
    try:
        found = words(line)
    except KeyError:
        found = []  # no such command; the answer to a shell is then empty
    assert found == want


def test_models_recipes_keys_commands(cache: Path) -> None:
    here = ["demo", "demo-moe", "8b", "me/Qwen3-tuned@v2"]
    elsewhere = [alias for alias in ALIASES if alias != "8b"]
    for command in ("chat", "generate", "info", "bench"):
        assert words(f"{command} ") == here + elsewhere
    assert words("convert ") == ALIASES
    assert words("convert 8b --recipe ") == list(RECIPES)
    assert words("config unset ") == list(settings.KEYS)
    assert words("") == [*COMMANDS, "sessions", "config"]
    assert "--help" in words("chat --") and "--budget" in words("chat 8b --")


def test_kept_conversations(cache: Path, kept: str, state_home: Path) -> None:
    (state_home / "sessions" / "2026-02-01-000000-ffff.jsonl").write_text("no conversation")
    for line in ("chat --resume ", "sessions show 2026", "sessions rm x ", "sessions export md "):
        assert words(line) == [kept]
    assert words("chat --resume --bud") == ["--budget"]


@pytest.mark.parametrize(
    ("typed", "want"),
    [
        ("a 'b c", ["a", "b c"]),
        ('a "b', ["a", "b"]),
        ("a # b", ["a", "#", "b"]),
        ("a\nb", ["a", "b"]),
        ("a b\\", ["a", "b"]),
    ],
)
def test_a_line_that_is_still_being_typed(typed: str, want: list[str]) -> None:
    assert completion._split(typed) == want


# ── the shells ───────────────────────────────────────────────────────────────────────────────


def ask(shell: str, line: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """What the shell's script asks for `line`, whose last word is under the cursor."""
    asked = {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    asked |= {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    asked |= {"_QWEN3_MLX_COMPLETE": f"complete_{shell}"} | variables
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        env=os.environ | asked,
        cwd=ROOT,
    )


def test_the_three_answers(cache: Path, kept: str) -> None:
    done = ask("bash", "qwen3-mlx chat 8")
    assert (done.returncode, done.stdout, done.stderr) == (0, "8b\n", "")
    done = ask("fish", "qwen3-mlx chat 8")
    assert (done.returncode, done.stdout, done.stderr) == (0, "8b\ton this machine\n", "")
    done = ask("zsh", "qwen3-mlx sessions show ")
    assert "What'\\''s up: $HOME?" in done.stdout and done.stderr == ""
    assert ask("zsh", "qwen3-mlx chat ./").stdout == "_files\n"
    assert ask("bash", "qwen3-mlx chat ./").stdout == ""
    for line, code in (("qwen3-mlx chat 8", 0), ("qwen3-mlx chat ./", 1)):
        done = ask("fish", line, _TYPER_COMPLETE_FISH_ACTION="is-args")
        assert (done.returncode, done.stdout) == (code, "")


@pytest.mark.parametrize("line", ["qwen3-mlx nothing ", "qwen3-mlx chat 'open", "qwen3-mlx", ""])
def test_no_line_is_an_error(line: str, cache: Path) -> None:
    for shell in ("bash", "zsh", "fish"):
        done = ask(shell, line)
        assert (done.returncode, done.stderr) == (0, "")


def test_a_broken_configuration_does_not_matter(cache: Path, state_home: Path) -> None:
    state_home.mkdir()
    (state_home / "config.toml").write_text("= broken")
    assert ask("bash", "qwen3-mlx config ed").stdout == "edit\n"
    assert ask("bash", "qwen3-mlx chat 8").stdout == "8b\n"


def test_nothing_slow_is_imported(cache: Path, kept: str) -> None:
    """A person waits: no MLX, no screen, no hub, no pydantic, no Markdown."""
    code = (
        "import atexit, sys\n"
        "slow = ('mlx', 'textual', 'transformers', 'huggingface_hub', 'pydantic', 'markdown_it')\n"
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
        assert done.stdout.startswith("local -a") and done.stderr == "\n", done.stderr


@pytest.fixture
def on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a program `qwen3-mlx`, first on the path, and an empty home."""
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
    return home


def script(shell: str) -> str:
    """The script that typer gives the shell."""
    from typer._completion_shared import get_completion_script

    return get_completion_script(
        prog_name="qwen3-mlx", complete_var=completion.VARIABLE, shell=shell
    )


def run_in(shell: str, *arguments: str) -> Any:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed; what it would be told is tested above")
    done = subprocess.run([shell, *arguments], capture_output=True, text=True, timeout=60)
    assert done.stderr == "", done.stderr
    return done.stdout.split("\n")


def test_in_bash(on_the_path: Path, cache: Path, kept: str) -> None:
    code = script("bash") + (
        '\ngo() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _qwen3_mlx_completion qwen3-mlx;'
        ' echo "${COMPREPLY[*]}"; }\n'
        "go qwen3-mlx chat me/\n"
        "go qwen3-mlx convert --recipe = mix\n"
        "go qwen3-mlx sessions show ''\n"
        "go qwen3-mlx chat --show-thinking =\n"
    )
    found = run_in("bash", "--norc", "-c", code)
    assert found[:3] == ["me/Qwen3-tuned@v2", "mixed-4-6", kept]
    assert found[3].split() == list(settings.SHOW_THINKING)


def test_in_fish(on_the_path: Path, cache: Path, kept: str) -> None:
    lines = ("chat me/", "convert --recipe=mix", "sessions show ")
    asked = "; ".join(f"complete -C 'qwen3-mlx {line}'" for line in lines)
    found = run_in("fish", "--no-config", "-c", f"{script('fish')}; {asked}")
    assert [line.partition("\t")[0] for line in found[:3]] == [
        "me/Qwen3-tuned@v2",
        "--recipe=mixed-4-6",
        kept,
    ]
    assert found[2].endswith("What's up: $HOME?")


def test_in_zsh(on_the_path: Path, cache: Path, kept: str) -> None:
    """The answer is code that zsh runs; its function for lists is replaced by one that prints."""
    ours = script("zsh").split("compdef _qwen3")[0]
    code = (
        "_describe() { print -rl -- ${(P)3} }; _files() { print files }\n"
        f"{ours}\n"
        'go() { words=("$@"); CURRENT=$#; _qwen3_mlx_completion }\n'
        "go qwen3-mlx chat me/\n"
        "go qwen3-mlx convert --recipe=mix\n"
        "go qwen3-mlx sessions show ''\n"
        "go qwen3-mlx info ./\n"
    )
    found = run_in("zsh", "-f", "-c", code)
    assert found[0] == "me/Qwen3-tuned@v2:on this machine"
    assert found[1].startswith("--recipe=mixed-4-6:4 bits; values and")
    assert found[2].startswith(kept) and found[2].endswith("What's up: $HOME?")
    assert found[3] == "files"


def test_typer_installs_the_scripts_that_ask(on_the_path: Path) -> None:
    """And it asks in the way that is answered here."""
    for shell in ("bash", "zsh", "fish"):
        assert f"{completion.VARIABLE}=complete_{shell}" in script(shell)
