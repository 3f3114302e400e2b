"""MCP servers over stdio: hostile ones, and no process that outlives the session."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from qwen3_mlx.errors import OptionError
from qwen3_mlx.tools.client import McpClient
from qwen3_mlx.tools.server_file import ServerConfig, read_config
from qwen3_mlx.tools.servers import McpServers
from qwen3_mlx.tools.tool import Cancel, Result

HOSTILE = Path(__file__).with_name("hostile_server.py")


def config(how: str, name: str = "h") -> ServerConfig:
    return ServerConfig(name, (sys.executable, str(HOSTILE), how))


def running(mark: str) -> list[int]:
    """Processes whose environment has `mark`; a grandchild's has it too."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            if mark.encode() in (folder / "environ").read_bytes() and state != "Z":
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def marked(one: ServerConfig, mark: str) -> ServerConfig:
    return ServerConfig(one.name, one.command, {"MARK_OF_TEST": mark})


def call(servers: McpServers, cancel: Cancel | None = None, **arguments: object) -> Result:
    (tool,) = servers.tools()
    return tool.run(arguments, cancel or Cancel())


@pytest.mark.parametrize(
    ("how", "failed", "text"),
    [
        ("well", False, '{"a": "\\u00e4"}'),
        ("noise", False, '{"a"'),
        ("flood", False, '{"a"'),
        ("flood-stderr", False, '{"a"'),
        ("escape", False, "\x1b]0;owned"),
        ("half-emoji", False, "cut \ufffd, whole \U0001f600"),
        ("half-emoji-error", True, "cut \ufffd"),
        ("crash", True, "exit code 3: out of luck"),
        ("half", True, "exit code 4"),
        ("hang", True, "1 s of silence"),
        ("big", True, "more than 32 MB"),
        ("binary", True, "that was binary"),
        ("error", True, "no"),
        ("no-result", False, ""),
    ],
)
def test_whatever_a_server_does_a_call_gives_one_result(
    how: str, failed: bool, text: str, tmp_path: Path
) -> None:
    seconds = 1.0 if how == "hang" else 20.0
    mark = str(tmp_path)
    one = marked(config(how), mark)
    with McpServers([one], log_folder=tmp_path, call_seconds=seconds) as servers:
        assert servers.failures == {}
        result = call(servers, a="ä")
        assert result.failed == failed and text in result.text
        if how in ("big", "binary", "hang"):
            assert len(result.text) < 300
    assert running(mark) == []
    assert not list(tmp_path.iterdir()) or (tmp_path / "h.log").stat().st_size < 2**21


def test_a_server_that_lies_about_its_tools() -> None:
    with McpServers([config("lying-schema")]) as servers:
        assert "echo" in [tool.name for tool in servers.tools()]
        assert len(servers.remarks()) >= 4


def test_all_pages_of_a_list_are_read() -> None:
    with McpServers([config("pages")]) as servers:
        assert [tool.name for tool in servers.tools()] == [f"echo{n}" for n in range(5)]


@pytest.mark.parametrize("how", ["many", "endless"])
def test_too_many_tools_end(how: str) -> None:
    with McpServers([config(how)]) as servers:
        assert 1 <= len(servers.tools()) <= 512
        assert how == "endless" or "more than 512" in servers.remarks()[0]


@pytest.mark.parametrize(
    ("one", "why"),
    [
        (config("old"), "1999-01-01"),
        (ServerConfig("h", ("no-such-command-here",)), "No such file"),
        (ServerConfig("h", (sys.executable, "-c", "raise SystemExit(5)")), "exit code 5"),
        (ServerConfig("h", ("no-such-command-here",)), "(is it installed, and on the PATH?)"),
        (ServerConfig("h", ("no-such-command-here",), cwd="/"), "(is it installed, and"),
        (ServerConfig("h", (f"{sys.executable} {HOSTILE}",)), 'it belongs into "args"'),
        (ServerConfig("h", (sys.executable,), cwd="/no/such/folder"), "in /no/such/folder: got No"),
        (ServerConfig("h", (sys.executable,), cwd=__file__), f"in {__file__}: got Not a directory"),
    ],
)
def test_a_server_that_does_not_begin_is_left_out(one: ServerConfig, why: str) -> None:
    with McpServers([one, config("well", "good")]) as servers:
        assert why in servers.failures["h"]
        assert [tool.full_name for tool in servers.tools()] == ["good.echo"]


def test_one_that_is_not_allowed_does_not_start(tmp_path: Path) -> None:
    one = marked(config("well"), str(tmp_path))
    with McpServers([one], approve=lambda config: False) as servers:
        assert servers.tools() == [] and running(str(tmp_path)) == []


def test_names_that_collide_and_lists_that_change() -> None:
    with McpServers([config("changed", "a"), config("well", "b")]) as servers:
        assert [tool.name for tool in servers.tools()] == ["a__echo", "b__echo"]
        assert not servers.tools()[0].run({}, Cancel()).failed
        assert [tool.name for tool in servers.tools(refresh=False)] == ["a__echo", "b__echo"]
        assert [tool.name for tool in servers.tools()] == ["other", "echo"]


def test_a_call_is_cancelled_and_the_server_goes_on() -> None:
    with McpServers([config("hang")], call_seconds=30) as servers:
        cancel = Cancel()
        threading.Timer(0.3, cancel.ask).start()
        began = time.monotonic()
        assert "cancelled" in call(servers, cancel).text and time.monotonic() - began < 20


def test_servers_end_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    both, close = threading.Barrier(2), McpClient.close

    def together(client: McpClient) -> None:
        both.wait(60)  # one alone would wait in vain
        close(client)

    with McpServers([config("well", "a"), config("well", "b")]) as servers:
        assert servers.failures == {}
        monkeypatch.setattr(McpClient, "close", together)
    assert not both.broken and servers.clients == {}


@pytest.mark.parametrize("how", ["children", "stubborn"])
def test_children_that_stay_are_ended(how: str, tmp_path: Path) -> None:
    mark = str(tmp_path)
    with McpServers([marked(config(how), mark)]):
        assert len(running(mark)) == 2
    assert running(mark) == []


PROGRAM = """
import sys, time
from qwen3_mlx.tools.server_file import ServerConfig
from qwen3_mlx.tools.servers import McpServers
one = ServerConfig("h", (sys.executable, sys.argv[1], sys.argv[4]), {"MARK_OF_TEST": sys.argv[2]})
servers = McpServers([one]).__enter__()
print("ready", flush=True)
if sys.argv[3] == "end":
    sys.exit()
if sys.argv[3] == "raise":
    raise RuntimeError
time.sleep(60)
"""


# A program that a signal kills can end nothing: its watcher does then.
@pytest.mark.parametrize(
    ("how", "server"),
    [(how, "children") for how in ("end", "raise", "SIGINT")]
    + [("SIGTERM", "well"), ("SIGHUP", "children"), ("SIGKILL", "stubborn")],
)
def test_no_server_outlives_its_program(how: str, server: str, tmp_path: Path) -> None:
    mark = str(tmp_path)
    command = [sys.executable, "-c", PROGRAM, str(HOSTILE), mark, how, server]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as program:
        assert program.stdout is not None and program.stdout.readline() == b"ready\n"
        if how.startswith("SIG"):
            os.kill(program.pid, getattr(signal, how))
        program.wait(20)
    until = time.monotonic() + 60
    while running(mark) and time.monotonic() < until:
        time.sleep(0.1)
    left = running(mark)
    for process in left:
        os.kill(process, signal.SIGKILL)
    assert left == []


def test_a_server_gets_a_small_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret_value")
    script = "import os,sys;sys.stderr.write(' '.join(sorted(os.environ)));sys.exit(1)"
    one = ServerConfig("h", (sys.executable, "-c", script), {"MINE": "1"})
    with McpServers([one]) as servers:
        assert "MINE" in servers.failures["h"] and "HF_TOKEN" not in servers.failures["h"]


def test_a_program_within_itself_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN3_MLX_TOOL_DEPTH", "3")
    with McpServers([config("well")]) as servers:
        assert "within itself" in servers.failures["h"]


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mcp.json"
    path.write_text(text, "utf-8")
    return path


def test_the_config_that_everybody_uses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", "here")
    entry = {"command": "run", "args": ["${PLACE}", "${NONE:-x}"], "env": {"K": "secret"}}
    servers = {"a": entry, "b": {"url": "http://localhost/mcp"}, "c": entry | {"disabled": True}}
    one, two = read_config(write(tmp_path, json.dumps({"mcpServers": servers})))
    assert one.command == ("run", "here", "x") and two.url == "http://localhost/mcp"
    assert one.shown == "K=… run here x" and "secret" not in one.shown
    changed = json.dumps({"mcpServers": {"a": entry | {"args": ["else"]}}})
    assert read_config(write(tmp_path, changed))[0].digest != one.digest


def test_the_file_chooses_what_is_on_offer(tmp_path: Path) -> None:
    entry = {"command": sys.executable, "args": [str(HOSTILE), "two"]}
    servers = {
        "a": entry | {"includeTools": ["write", "gone"]},
        "b": entry | {"excludeTools": ["write"]},
        "c": entry | {"includeTools": []},
        "d": entry | {"includeTools": ["echo"], "excludeTools": ["echo", "none"]},
    }
    with McpServers(read_config(write(tmp_path, json.dumps({"mcpServers": servers})))) as running:
        assert [tool.full_name for tool in running.tools()] == ["a.write", "b.echo"]
        assert [tool.name for tool in running.tools()] == ["write", "echo"]
        assert running.remarks() == [
            "a: includeTools names gone, which it hasn't",
            "d: excludeTools names none, which it hasn't",
        ]


SHAPES: list[Callable[[], str]] = [
    lambda: "no json",
    lambda: "[]",
    lambda: '{"mcpServers": []}',
    lambda: '{"mcpServers": {"a": 3}}',
    lambda: '{"mcpServers": {"a b": {"command": "x"}}}',
    lambda: '{"mcpServers": {"a": {"command": "x", "url": "http://x"}}}',
    lambda: '{"mcpServers": {"a": {"command": "x", "args": [1]}}}',
    lambda: '{"mcpServers": {"a": {"command": "x", "includeTools": "x"}}}',
    lambda: '{"mcpServers": {"a": {"command": "${NOT_SET_AT_ALL}"}}}',
    lambda: '{"mcpServers": {"a": {"type": "sse", "url": "http://x"}}}',
]


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("arg", "args"),
        ("Args", "args"),
        ("arguments", "args"),
        ("Env", "env"),
        ("environment", "env"),
        ("CWD", "cwd"),
        ("working_directory", "cwd"),
        ("header", "headers"),
        ("comand", "command"),
        ("exclude_tools", "excludeTools"),
        ("excludetool", "excludeTools"),
        ("include-tools", "includeTools"),
        ("alwaysallow", "alwaysAllow"),
        ("Disabled", "disabled"),
        ("disable", "disabled"),
    ],
)
def test_a_misspelt_key_is_named(key: str, meant: str, tmp_path: Path) -> None:
    """Left out, it would start a server without its arguments, or offer what was to be left out."""
    servers = {"time": {"command": "time", key: []}}
    with pytest.raises(OptionError) as caught:
        read_config(write(tmp_path, json.dumps({"mcpServers": servers})))
    said = str(caught.value)
    assert "time" in said and repr(key) in said and meant in said


def test_keys_of_other_programs_mean_nothing_here(tmp_path: Path) -> None:
    others = [
        "timeout", "trust", "description", "envFile", "tools", "autoApprove", "oauth",
        "authProviderType", "scopes", "icons", "displayName", "transport", "transportType",
        "note", "_comment", "metadata", "requestTimeout", "version", "startupTimeout",
        "disabledTools", "enabledTools", "allowedTools", "toolFilter", "gallery", "dev",
        "sandbox", "inputs", "initTimeout", "experimental_environment_mode", "id", "name",
        "label", "owner",
    ]  # fmt: skip
    one = {"command": "time"} | dict.fromkeys(others, 1)
    (found,) = read_config(write(tmp_path, json.dumps({"mcpServers": {"time": one}})))
    assert found.command == ("time",)


@pytest.mark.parametrize("key", ["url", "httpUrl", "serverUrl"])
def test_an_address_has_each_programs_key(key: str, tmp_path: Path) -> None:
    one = {key: "http://127.0.0.1:9/mcp"}
    (found,) = read_config(write(tmp_path, json.dumps({"mcpServers": {"time": one}})))
    assert found.url == "http://127.0.0.1:9/mcp" and not found.command


@pytest.mark.parametrize("shape", SHAPES)
def test_a_wrong_config_is_refused(shape: Callable[[], str], tmp_path: Path) -> None:
    with pytest.raises(OptionError):
        read_config(write(tmp_path, shape()))
