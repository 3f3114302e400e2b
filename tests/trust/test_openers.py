"""Every file is opened by an opener of files.py, which never waits and never reads without end."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

from qwen3_mlx.device.compile import can_compile
from qwen3_mlx.errors import OptionError
from qwen3_mlx.files import expanded, open_to_append, read_given
from qwen3_mlx.quantize import recipe_file
from tests.test_house import MODULES, PACKAGE

OPENERS = {"open", "read_text", "read_bytes", "mx.load", "safe_open", "open_code", "fdopen"}
ALLOWED = {
    "files.py": "the openers",
    "cli/terminal/screen.py": "/dev/null",
    "cli/json_lines.py": "lines that the user names for this command, a pipe too",
    "checkpoint/load.py": "MLX reads what headers.py has checked",
    "checkpoint/mapped.py": "the package's texts",
    "checkpoint/try_mapped.py": "MLX reads what headers.py has checked",
    "group/plan.py": "writes the group's own file",
    "group/ending.py": "what our own child wrote",
    "group/start.py": "what our own child wrote",
    "hub/remote_files.py": "what it has just downloaded into a folder of its own",
    "quantize/source_pass.py": "MLX reads what headers.py has checked",
    "gguf/folder.py": "the bundled model's template",
    "device/blas.py": "/proc/cpuinfo",
    "chat/prompt_store.py": "read_header has checked the file",
    "fit/machine.py": "/proc and /sys",
    "metal/launch.py": "the package's texts",
    "metal/child_output.py": "what our own child wrote",
    "metal/prove.py": "what our own child reads and writes",
    "metal/verdict.py": "the package's texts",
    "quantize/disk.py": "writes, and flushes a folder",
    "quantize/verify.py": "the package's text",
    "serve/web_page.py": "the package's page",
    "tools/stdio.py": "writes a server's log",
}
"""Files that may open by themselves, and what."""
OURS = {"ConversionJournal", "part", "weight", "self.base", "self.whole", "held", "cache"}
"""What has an `open` or a `load` that opens no file."""


def openings(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        owner, _, name = called.rpartition(".")
        if {name, called} & OPENERS and not (owner in OURS or owner.endswith(".parts[0]")):
            found.append(called)
    return found


def test_nothing_opens_a_file_by_itself() -> None:
    past = {
        name: calls
        for path in MODULES
        if (name := str(path.relative_to(PACKAGE))) not in ALLOWED and (calls := openings(path))
    }
    assert past == {}


def test_the_list_of_those_that_may_is_no_longer_than_it_must_be() -> None:
    assert {name for name in ALLOWED if not openings(PACKAGE / name)} == set()


@pytest.mark.parametrize(
    "code", ["open(x)", "io.open(x)", "path.open('rb')", "a.b.read_text()", "Path(x).read_bytes()"]
)
def test_the_walk_finds_each_way(code: str, tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text(code)
    assert len(openings(tmp_path / "code.py")) == 1


def test_what_a_user_names_may_be_a_pipe_but_has_a_size() -> None:
    read, write = os.pipe()
    os.write(write, b"text")
    os.close(write)
    assert read_given(Path(f"/dev/fd/{read}")) == b"text"
    os.close(read)
    with pytest.raises(OSError, match="more than 1000 bytes"):
        read_given(Path("/dev/zero"), 1000)
    with pytest.raises(IsADirectoryError):
        read_given(Path("/"))


def test_appending_never_waits_for_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "none" / "x", Path("/dev/zero")):
        with pytest.raises(OSError):
            open_to_append(path)
    with open_to_append(tmp_path / "new") as stream:
        stream.write(b"1")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600
    assert expanded("~nobody-of-this-name/x") == Path("~nobody-of-this-name/x")


@pytest.mark.parametrize(
    "text",
    [
        "bits = 5",
        "[bits]\ndefault = [4]",
        "[bits]\ndefault = { mode = [1] }",
        "[bits]\ndefault = { mode = { a = 1 } }",
        "[bits]\ndefault = { bits = [4] }",
        "[bits]\ndefault = { bits = 4, group_size = 'x' }",
        "[bits]\ndefault = { bits = nan }",
        "[bits]\ndefault = 1e400",
        "[bits]\ndefault = 99999999999999999999999",
        "[bits]\ndefault = true",
        "[bits]\ndefault = 4\nv = 1979-05-27",
        "group_size = 2.5\n[bits]\ndefault = 4",
        "bound = nan\n[bits]\ndefault = 4",
        "target = inf\n[bits]\ndefault = 4",
        "target = -1\n[bits]\ndefault = 4",
        "name = 5\n[bits]\ndefault = 4",
        "a = " + "[" * 5000,
        "\ud800",
    ],
)
def test_recipes_that_are_none(text: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(OptionError) as caught:
        recipe_file.read(file)
    assert len(str(caught.value)) < 1500


def test_where_mlx_may_compile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert can_compile("9")
    (tmp_path / "mlx").write_text("somebody's file")
    assert not can_compile("9")
    for nowhere in ("/dev/null/x", "/proc/self/nothing"):
        monkeypatch.setenv("TMPDIR", nowhere)
        assert not can_compile("9") or os.access("/proc/self", os.W_OK)
