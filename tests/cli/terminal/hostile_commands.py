"""Runs every command with hostile names, titles, texts and errors, for test_hostile_terminal.

A program of its own, under a pseudo-terminal: one process for all commands, a mark before each.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

HOSTILE = "a\x1b]0;PWNED\x07b\x1b[66;6Hc\x9b66;7Hd\x1bP66\x1b\\e\u202ef\u2066g\x7fh\x9dPWNED\x9c"
NAME = HOSTILE.replace("/", "")
MARK = "==== "


def prepare(home: Path, demo: Path) -> None:
    """A model, a folder of models, conversations, a configuration, an adapter, tools."""
    models = home / "models"
    models.mkdir(parents=True)
    (models / NAME).symlink_to(demo)
    broken = models / f"broken{NAME}"
    broken.mkdir()
    (broken / "config.json").write_text(json.dumps({"model_type": HOSTILE}))
    raising = models / f"raising{NAME}"
    raising.mkdir()
    for file in demo.iterdir():
        (raising / file.name).symlink_to(file)
    (raising / "tokenizer_config.json").unlink()
    said = json.loads((demo / "tokenizer_config.json").read_text("utf-8"))
    said["chat_template"] = "{{ raise_exception(" + json.dumps(HOSTILE) + ") }}"
    (raising / "tokenizer_config.json").write_text(json.dumps(said))
    sessions = home / "sessions"
    sessions.mkdir()
    turn = [
        {"role": "user", "content": HOSTILE},
        {"role": "assistant", "content": HOSTILE, "reasoning_content": HOSTILE},
    ]
    lines = [
        {"format": "qwen3-mlx chat", "version": 1, "created": HOSTILE},
        {"keep": 0, "add": turn, "model": "demo", "options": {}, "at": HOSTILE},
    ]
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    (sessions / "2026-01-01-000000-0000.jsonl").write_text(text)
    (home / "config.toml").write_text(f"system = {json.dumps(HOSTILE).replace('x7f', 'u007f')}\n")
    (home / "lines.jsonl").write_text(json.dumps(HOSTILE) + "\n{" + HOSTILE + "\n")


def commands(home: Path) -> list[list[str]]:
    model, models = str(home / "models" / NAME), str(home / "models")
    raising = str(home / "models" / f"raising{NAME}")
    id = "2026-01-01-000000-0000"
    return [
        ["generate", model, HOSTILE, "--max-tokens", "8"],
        ["generate", f"{model}x", "hi"],
        ["generate", HOSTILE, "hi", "--debug"],
        ["generate", raising, "hi"],
        ["generate", raising, "hi", "--debug"],
        ["generate", "demo", "hi", "--tools", f"{home}/{NAME}"],
        ["generate", "demo", "hi", "--json", "--max-tokens", "8", "--system", HOSTILE],
        ["info", model],
        ["info", model, "--json"],
        ["info", f"{models}/broken{NAME}"],
        ["models", models],
        ["models", models, "--json"],
        ["models", HOSTILE],
        ["sessions", "list"],
        ["sessions", "show", id],
        ["sessions", "export", id, "md"],
        ["sessions", "export", id, "json"],
        ["sessions", "show", HOSTILE],
        ["sessions", "rm", HOSTILE],
        ["config"],
        ["config", "--json"],
        ["config", "get", "system"],
        ["config", "get", HOSTILE],
        ["config", "set", "theme", HOSTILE],
        ["config", "set", HOSTILE, HOSTILE],
        ["convert", model, "--dry-run", "--no-verify", "--out", str(home / NAME)],
        ["convert", HOSTILE, "--dry-run"],
        ["convert", model, "--recipe", HOSTILE],
        ["convert", "demo", "--out", str(home / f"out{NAME}"), "--no-verify"],
        ["embed", "demo", str(home / "lines.jsonl")],
        ["embed", "demo", f"{home}/{NAME}"],
        ["rerank", "demo", HOSTILE, str(home / "lines.jsonl")],
        ["bench", HOSTILE],
        ["doctor", HOSTILE],
        [HOSTILE],
        [f"--{NAME}"],
        ["generate", f"--{NAME}"],
        ["chat", model, "--plain", "--resume", id, "--no-think"],
        ["chat", f"{model}x", "--plain"],
    ]


def main(home: Path) -> None:
    import qwen3_mlx
    from qwen3_mlx.cli.app import run

    os.environ["QWEN3_MLX_HOME"] = str(home)
    prepare(home, Path(qwen3_mlx.__file__).parent / "demo")
    os.chdir(home)
    for number, arguments in enumerate(commands(home)):
        print(f"\n{MARK}{number} {arguments[0].encode('ascii', 'ignore').isalnum()}", flush=True)
        sys.argv = ["qwen3-mlx", *arguments]
        print(f"\n{MARK}code {run()}", flush=True)
    print(f"{MARK}end", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
