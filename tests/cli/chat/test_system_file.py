"""``chat --system-file`` with the bundled model: computed once, then read from the disk."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from qwen3_mlx.chat import journal, journal_files
from qwen3_mlx.cli.app import app
from qwen3_mlx.events import Answer

TEXT = "The meeting is on Monday at nine. Bring two copies. " * 6


def chat(*arguments: str, stdin: str) -> Result:
    return CliRunner().invoke(app, ["chat", *arguments], input=stdin)


def cached(result: Result) -> int:
    found = re.search(r"\(([\d,]+) from the cache\)", result.stderr)
    assert found, result.stderr
    return int(found[1].replace(",", ""))


def test_the_second_chat_computes_its_message_only(tmp_path: Path, state_home: Path) -> None:
    file = tmp_path / "doc.md"
    file.write_text(TEXT, "utf-8")
    arguments = ("demo", "--no-think", "--system-file", str(file))
    first = chat(*arguments, stdin="hi\n/stats\n")
    assert first.exit_code == 0, first.stderr
    (kept,) = (state_home / "prompts").glob("*.safetensors")
    second = chat(*arguments, stdin="hi\n/stats\n")
    assert cached(second) > 100
    assert second.stdout.splitlines()[:1]
    kept.write_bytes(kept.read_bytes()[:-1])
    third = chat(*arguments, stdin="hi\n/stats\n")
    assert "damaged and was removed" in third.stderr
    one, *_ = (journal.read(path) for path in journal_files.all_in(state_home / "sessions"))
    assert one.messages[0] == {"role": "system", "content": TEXT}


def test_going_on_reads_the_history_from_the_disk(state_home: Path) -> None:
    chat("demo", "--no-think", "--max-tokens", "40", stdin=f"{TEXT}\n/stats\n")
    chat("--resume", stdin="/quit\n")  # nothing is said: what is done in time is kept
    assert chat("--resume", stdin="hi\n/stats\n").exit_code == 0


@pytest.mark.parametrize(
    ("data", "words"),
    [(None, "No such file"), (b"\xff\xfe\x00", "0xff at offset 0"), (b" \n", "is empty")],
)
def test_a_file_that_is_no_text(cli: Any, tmp_path: Path, data: bytes | None, words: str) -> None:
    file = tmp_path / "doc.md"
    if data is not None:
        file.write_bytes(data)
    result = cli("chat", "8b", "--system-file", str(file), stdin="x\n")
    assert result.exit_code == 1 and words in result.stderr and "doc.md" in result.stderr
    assert not cli.opened


def test_it_is_the_system_prompt_as_written(cli: Any, tmp_path: Path) -> None:
    file = tmp_path / "doc.md"
    file.write_bytes(b"\xef\xbb\xbf" + "Sei kurz. 你好\n".encode())
    cli.script([Answer("a")])
    cli("chat", "8b", "--system-file", str(file), stdin="x\n")
    assert cli.model.asked[0][0][0] == {"role": "system", "content": "Sei kurz. 你好\n"}
    both = cli("chat", "8b", "--system", "S", "--system-file", str(file), stdin="x\n")
    assert both.exit_code == 2
