"""The first machine or the launcher is lost: all end, with one message of whoever is left."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from qwen3_mlx.errors import BackendError
from qwen3_mlx.group import ending, plan, start, versions
from qwen3_mlx.group import follow as following
from qwen3_mlx.group import lead as leading
from qwen3_mlx.group import line as lines
from qwen3_mlx.group.follow import Follower
from qwen3_mlx.group.lead import Lead
from tests.group.test_group import alive, family, plan_of, started, the_follower

__all__ = ["started"]


class Ended:
    """A process that follows, and has ended with `code`."""

    def __init__(self, code: int | None) -> None:
        self.code = code

    def poll(self) -> int | None:
        return self.code


@pytest.mark.parametrize(
    ("code", "others", "said"),
    [
        (0, [0], ""),
        (1, [0], ""),
        (-signal.SIGINT, [0], ""),
        (-signal.SIGTERM, [ending.EXIT], ""),
        (-signal.SIGKILL, [ending.EXIT], "machine 0 (localhost): it was ended by SIGKILL"),
        (-start.HANGS, [ending.EXIT], "machine 0 (localhost): it is stopped, or hangs"),
        (-signal.SIGSEGV, [247], "machine 1 (localhost): MLX ended with its connection"),
        (-signal.SIGSEGV, [ending.EXIT, 247], "machine 2 (localhost): MLX ended with its"),
        (-signal.SIGSEGV, [ending.EXIT, 0], "machine 0 (localhost): it was ended by SIGSEGV"),
    ],
)
def test_one_message_for_what_ended_the_first(
    code: int, others: list[int], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    group = plan_of(("localhost",) * (len(others) + 1))
    got = start._reported_code(group, code, [Ended(other) for other in others])  # type: ignore[misc]
    assert got == (ending.EXIT if said else code)
    err = capsys.readouterr().err
    assert err.count("error: ") == bool(said)
    assert said in err


def test_a_first_that_goes_on_when_others_have_lost_it_is_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    """Stopped, it could not hear that its group is gone."""
    monkeypatch.setattr(start, "HANG_S", 0.0)
    environment = {plan.STATUS: str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as first:
        os.kill(first.pid, signal.SIGSTOP)
        code = start._watched(first, environment, [Ended(ending.EXIT)])  # type: ignore[list-item]
    assert code == -start.HANGS
    assert first.returncode == -signal.SIGKILL


CRASHES = """
import os, signal, sys
from qwen3_mlx.group import ending
from qwen3_mlx.group.plan import current

def crash(*_):
    os.kill(os.getpid(), signal.SIGSEGV)

sys.stderr = type("Crashing", (), {"write": crash, "flush": crash})()
ending.os._exit = crash
ending.broken(current()[0], 1, "no word for 6 s", "1 tokens at position 9")
"""


SLEEPS = ["sleep", "60"]


@pytest.mark.parametrize(("way", "count"), [("leads", 1), ("follows", 1), ("launched", 0)])
def test_a_crash_as_the_message_is_due_leaves_it_to_who_watches(
    way: str,
    count: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """MLX's ring crashed between the note and the print: the group ended without a word."""
    program = [sys.executable, "-c", CRASHES]
    monkeypatch.setattr(start, "PROGRAM", program)
    if way == "leads":
        monkeypatch.setattr(start, "_command", lambda _: program)
        monkeypatch.setattr(
            start, "_follower", lambda *_: subprocess.Popen(SLEEPS, start_new_session=True)
        )
        assert start.run(plan_of(), [], tmp_path) == ending.EXIT
    else:
        assert start.follow(plan_of(), 1, way == "launched") == ending.EXIT
    err = capsys.readouterr().err
    assert err.count("error: the group has lost machine 1 (localhost): no word for 6 s") == count
    assert err.count("error: ") == count
    assert err.count("hint: last was: 1 tokens at position 9") == count


@pytest.mark.parametrize("noted", ["nowhere", "a full disk", "a launcher that is gone"])
def test_who_is_not_watched_says_it_itself(
    noted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ended(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", ended)
    if noted != "nowhere":
        file = tmp_path / "absent" / "status" if noted == "a full disk" else tmp_path / "status"
        monkeypatch.setenv(plan.STATUS, str(file))
        gone = noted == "a launcher that is gone"
        monkeypatch.setenv(plan.LAUNCHER, "1" if gone else str(os.getppid()))
    with pytest.raises(SystemExit) as caught:
        ending.broken(plan_of(), 1, "no word for 6 s", "joining")
    assert caught.value.code == ending.EXIT
    assert capsys.readouterr().err.count("error: the group has lost machine 1") == 1


def test_the_group_ends_with_its_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(plan.LAUNCHER, str(os.getppid()))
    parents = iter([os.getppid(), os.getppid(), 1])
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    monkeypatch.setattr(leading.time, "sleep", lambda _: None)
    lead, said = Lead(plan_of()), list[str]()

    def fail(rank: int, why: str) -> None:
        said.append(why)
        lead._ended = True

    monkeypatch.setattr(lead, "fail", fail)
    lead._watch()
    assert said == ["qwen3-mlx launch has ended, which watched the group"]


def test_a_program_started_by_hand_has_no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("", "no number", str(os.getpid())):
        monkeypatch.setenv(plan.LAUNCHER, value)
        assert plan.launched_by() is None


class Heard:
    """A line that keeps what is sent, until it breaks."""

    def __init__(self, breaks: bool = False) -> None:
        self.sent: list[object] = []
        self.breaks = breaks

    def send(self, message: object) -> None:
        if self.breaks:
            raise BrokenPipeError
        self.sent.append(message)


@pytest.mark.parametrize(
    ("error", "waits"), [("[ring] connection to a peer was lost", 1), ("something else", 0)]
)
def test_a_pass_that_another_s_loss_made_fail_is_not_this_machine_s_fault(
    error: str, waits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three machines the one that is lost must be named, not the one beside it."""
    slept: list[float] = []
    monkeypatch.setattr(following.time, "sleep", slept.append)
    found = object.__new__(Follower)
    found.plan, line = plan_of(), Heard()
    found.line = line  # type: ignore[assignment]
    found._tell_fault(RuntimeError(error))
    assert slept == [ending.NOTICED_S] * waits
    assert line.sent == [{"fault": f"RuntimeError: {error}"}]
    found.line = Heard(breaks=True)  # type: ignore[assignment]
    found._tell_fault(RuntimeError(error))  # the first is gone already


def test_who_is_there_hears_that_the_first_waits_for_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A machine gave up after 6 s of silence where a third one took longer to start."""
    monkeypatch.setattr(lines, "BEAT_S", 0.01)
    monkeypatch.setattr(leading, "GATHER_S", 2.0)
    group, door = plan_of(("localhost",) * 3), socket.create_server(("127.0.0.1", 0))
    lead = Lead(group)
    monkeypatch.setattr(lead, "fail", lambda rank, why: None)

    def gather() -> None:
        with pytest.raises(BackendError, match="machine 2"):
            lead.gather(door)

    waiting = threading.Thread(target=gather)
    waiting.start()
    line = lines.Line(socket.create_connection(door.getsockname()), group.secret)
    line.prove(welcome=False)
    line.send({"rank": 1, "versions": versions.own()})
    assert line.read_one() == {"beat": 1}
    line.close()
    waiting.join()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
@pytest.mark.parametrize("started", ["pipeline"], indirect=True)
def test_a_launcher_that_is_killed_takes_all_with_it(started: subprocess.Popen[str]) -> None:
    assert started.stdout is not None
    started.stdout.readline()
    started.stdout.readline()
    everybody = family(started.pid)
    assert the_follower(started) in everybody
    begin = time.monotonic()
    started.kill()
    _, said = started.communicate(timeout=60)  # until the last of them has closed its output
    while any(map(alive, everybody)) and time.monotonic() - begin < 15:
        time.sleep(0.05)
    assert not [pid for pid in everybody if alive(pid)]
    assert said.count("error: ") == 1, said
