"""Ports in use, and files of a group that are none: each is said at once, and nothing waits."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from qwen3_mlx.cli.app import app
from qwen3_mlx.errors import BackendError, ConfigError, OptionError
from qwen3_mlx.group import membership, port, start
from qwen3_mlx.group.plan import Plan, current, new_plan, read_plan, read_rdma
from tests.group.test_group import joined

TWO = ["localhost", "localhost"]


@pytest.fixture
def taken() -> Iterator[str]:
    """The address of a port that another program listens on."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield f"127.0.0.1:{other.getsockname()[1]}"


def with_link(rank: int, link: str) -> Plan:
    plan = new_plan(TWO, "s")
    links = [*plan.links]
    links[rank] = link
    return replace(plan, links=tuple(links))


def test_a_port_in_use_on_another_machine_is_said_by_the_first(
    taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLX there fails, and here waits half a minute for it without a word."""
    plan = with_link(1, taken)
    said = joined(plan, plan, 1, monkeypatch)
    assert f"machine 1 can't join: got {taken}: Address already in use" in said
    assert "--port N takes other ports" in said and "versions" not in said


def test_a_port_in_use_on_the_first_machine_is_said(
    taken: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in with_link(0, taken).variables(0, tmp_path).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BackendError) as caught:
        membership._lead.__wrapped__()
    assert f"machine 0 (localhost) can't join: got {taken}: Address" in str(caught.value)
    assert "--port N" in str(caught.value)


def test_only_who_listens_needs_its_port(taken: str) -> None:
    plan = with_link(1, taken)
    assert port.fault(plan, 0) == "" and taken in port.fault(plan, 1)
    for backend in ("jaccl", "nccl"):
        assert port.fault(replace(plan, backend=backend), 1) == ""
    assert port.fault(plan, 5) == "", "a rank that the group hasn't is refused as such"
    assert port.fault(plan, 0) == "", "asking leaves nothing behind"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"hosts": 5}, "can't be read"),
        ({"hosts": ["a", 5]}, "hosts: got 5, expected a name"),
        ({"links": ["127.0.0.1:1", "x"]}, "links: got 'x', expected an address:port"),
        ({"control": "nonsense"}, "control: got 'nonsense', expected an address:port"),
        ({"control": None}, "control: got None, expected an address:port"),
        ({"secret": 51234}, "secret: got another thing, expected a text"),
        ({"more": 1}, "can't be read"),
    ],
)
def test_a_file_that_is_no_group_s_is_an_error_that_names_the_key(
    changed: dict[str, Any], said: str
) -> None:
    text = json.dumps(json.loads(new_plan(TWO, "s").text()) | changed)
    with pytest.raises(OptionError) as caught:
        read_plan(text)
    assert said in str(caught.value) and "51234" not in str(caught.value)


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"[" * 9_999, b"", b"3", b"null", b"[]"])
def test_what_is_no_file_of_a_group_is_said(data: bytes, tmp_path: Path) -> None:
    file = tmp_path / "group.json"
    file.write_bytes(data)
    found = CliRunner().invoke(app, ["follow", "--group", str(file), "--rank", "1"])
    assert found.exit_code == 1 and "the group's file can't be read: got" in found.output
    assert "--debug" not in found.output
    with pytest.raises(OptionError, match=r"group\.json"):
        read_rdma(new_plan(TWO, "s"), file)


@pytest.mark.parametrize("rows", [[[1, 2]], {"hosts": [{"ssh": "a"}]}, [{"rdma": 3}]])
def test_a_hostfile_of_another_kind_is_told_the_form(rows: Any, tmp_path: Path) -> None:
    file = tmp_path / "hosts.json"
    file.write_text(json.dumps(rows))
    with pytest.raises(OptionError) as caught:
        read_rdma(new_plan(TWO, "s"), file)
    assert 'no hostfile: expected {"hosts": [{"rdma": [null, "rdma_en2"]}' in str(caught.value)


def test_a_program_that_is_not_there_starts_no_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "run", lambda *_: pytest.fail("started"))
    found = CliRunner().invoke(app, ["launch", "--hosts", ",".join(TWO), "no-such.py"])
    assert "no-such.py, which isn't there" in found.output


def test_a_file_that_lacks_a_key_or_is_gone_is_said_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match="got no 'hosts'"):
        read_plan("{}")
    monkeypatch.setenv("QWEN3_MLX_GROUP", str(tmp_path / "gone.json"))
    with pytest.raises(ConfigError, match=r"no gone\.json") as caught:
        current()
    assert "QWEN3_MLX_GROUP names it" in str(caught.value)
