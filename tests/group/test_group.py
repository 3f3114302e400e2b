"""A group of processes on this machine says what one process says, and breaks with one message."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwen3_mlx.config.share import Share
from qwen3_mlx.engine.prompt_cache import PromptCache
from qwen3_mlx.errors import BackendError, ModelNotFoundError, OptionError, OutOfMemoryError
from qwen3_mlx.group import ending, measure, versions
from qwen3_mlx.group import lead as leading
from qwen3_mlx.group.follow import Follower
from qwen3_mlx.group.lead import Lead
from qwen3_mlx.group.plan import Plan, new_plan, read_plan
from qwen3_mlx.hub import resolve
from qwen3_mlx.quantize import sharing
from qwen3_mlx.quantize.staging import Target
from tests import ring
from tests.tiny import network

PROGRAM = Path(__file__).with_name("program.py")
ROOT = PROGRAM.parents[2]
CLI = [sys.executable, "-c", "from qwen3_mlx.cli import main; main()"]
LAUNCH = [*CLI, "launch", "--hosts", "localhost,localhost"]


def environment(*, patient: bool = True) -> dict[str, str]:
    """Of the programs under test. A loss is tried without patience: MLX's ring as users have it."""
    return os.environ | (ring.patience() if patient else {}) | {"PYTHONPATH": str(ROOT)}


@pytest.mark.slow
def test_a_program_gets_the_same_from_several_machines(tmp_path: Path) -> None:
    """Budget, answer now, stop, retry, edit, warm, batches, copies, packed and rotating caches.

    By sums from whole checkpoints, and as a pipeline of three from a file a machine.
    """
    for name in ("demo", "demo-moe"):
        source, target = resolve.resolve(name), Target(tmp_path / name, "key")
        sharing.share_out(source, target, Share(0, 3, pipeline=True), {})
    pipeline = [*CLI, "launch", "--hosts", "localhost,localhost,localhost", "--pipeline"]
    runs = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment())
        for command in (
            [sys.executable, str(PROGRAM)],
            [*LAUNCH, str(PROGRAM)],
            [*pipeline, str(PROGRAM), str(tmp_path)],
        )
    ]
    alone, together, behind = (json.loads(run.communicate(timeout=200)[0]) for run in runs)
    assert [run.returncode for run in runs] == [0, 0, 0]
    assert together == alone
    assert behind == alone
    assert alone["demo {}"][3] == "budget"


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


def family(pid: int) -> list[int]:
    own = children(pid)
    return own + [deeper for child in own for deeper in family(child)]


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


WAITS = """
import sys, time
from qwen3_mlx import load
model = load("demo")
print("loaded", flush=True)
while True:
    print(model.generate("What is 17 * 23?", max_tokens=40).answer, flush=True)
    if sys.argv[1] == "idle":
        time.sleep(60)
"""


@pytest.fixture
def started(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    program = tmp_path / "waits.py"
    program.write_text(WAITS)
    way = ["--pipeline"] if request.param == "pipeline" else []
    run = subprocess.Popen(
        [*LAUNCH, *way, str(program), request.param],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(patient=False),
        start_new_session=True,
    )
    try:
        yield run
    finally:
        for pid in family(run.pid) if run.poll() is None else []:
            os.kill(pid, signal.SIGKILL)
        run.kill()
        run.wait()


def the_follower(run: subprocess.Popen[str]) -> int:
    """The process that computes, below the one that watches it."""
    for pid in family(run.pid):
        if Path(f"/proc/{pid}/cmdline").read_bytes().endswith(b"\0follow\0"):
            return pid
    raise AssertionError("nobody follows")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
@pytest.mark.parametrize(
    ("started", "deed"),
    [("busy", signal.SIGKILL), ("pipeline", signal.SIGSTOP), ("idle", signal.SIGSTOP)],
    indirect=["started"],
)
def test_a_machine_that_is_lost_ends_all_with_one_message(
    started: subprocess.Popen[str], deed: signal.Signals
) -> None:
    assert started.stdout is not None
    assert started.stdout.readline() == "loaded\n"
    started.stdout.readline()
    everybody = family(started.pid)
    begin = time.monotonic()
    os.kill(the_follower(started), deed)
    _, said = started.communicate(timeout=60)
    took = time.monotonic() - begin
    assert started.returncode == ending.EXIT, said
    assert took < 15, took
    assert said.count("error: ") == 1, said
    assert "the group has lost machine 1 (localhost)" in said
    assert "last was: " in said
    assert not [pid for pid in everybody if alive(pid)]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
@pytest.mark.parametrize("started", ["busy"], indirect=True)
def test_a_crash_of_mlx_as_a_machine_is_lost_ends_with_the_same_message(
    started: subprocess.Popen[str],
) -> None:
    """Held still meanwhile, the first machine hears nothing of it before it crashes."""
    assert started.stdout is not None
    assert started.stdout.readline() == "loaded\n"
    (first,) = [
        pid
        for pid in children(started.pid)
        if b"waits.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    os.kill(first, signal.SIGSTOP)
    os.kill(the_follower(started), signal.SIGKILL)
    os.kill(first, signal.SIGSEGV)
    os.kill(first, signal.SIGCONT)
    _, said = started.communicate(timeout=60)
    assert started.returncode == ending.EXIT, said
    assert said.count("the group has lost machine 1 (localhost)") == 1


@pytest.mark.parametrize(
    ("error", "waits"),
    [("[ring] connection to a peer was lost", 1), ("[malloc] Unable to allocate", 0), ("x", 0)],
)
def test_a_pass_that_fails_by_a_lost_machine_waits_for_the_message(
    error: str, waits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a turn's own error comes out first: 2 of 10 did, on a busy machine."""
    slept: list[float] = []
    monkeypatch.setattr(leading.time, "sleep", slept.append)
    model, _ = network(0)
    model.model.lead = Lead(new_plan(["localhost", "localhost"], "secret"))
    with pytest.raises((RuntimeError, OutOfMemoryError)), PromptCache(model).filling():
        raise RuntimeError(error)
    assert slept == [ending.NOTICED_S] * waits


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
@pytest.mark.parametrize("started", ["busy"], indirect=True)
def test_ctrl_c_ends_all(started: subprocess.Popen[str]) -> None:
    assert started.stdout is not None
    started.stdout.readline()
    everybody = family(started.pid)
    os.killpg(started.pid, signal.SIGINT)
    _, said = started.communicate(timeout=30)
    assert "the group has lost" not in said
    assert not [pid for pid in everybody if alive(pid)]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
def test_a_conversation_goes_on_after_a_machine_was_lost(tmp_path: Path) -> None:
    own = environment() | {"QWEN3_MLX_HOME": str(tmp_path)}
    chat = subprocess.Popen(
        [*LAUNCH, "chat", "demo", "--plain", "--seed", "1", "--no-think"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=own,
        start_new_session=True,
    )
    assert chat.stdin is not None
    assert chat.stdout is not None
    try:
        chat.stdin.write("My name is Ada.\n")
        chat.stdin.flush()
        first = chat.stdout.readline()
        time.sleep(2)  # what it says is kept as it grows
        os.kill(the_follower(chat), signal.SIGSTOP)
        assert chat.wait(20) == ending.EXIT
    finally:
        chat.kill()
        chat.communicate()
    again = subprocess.run(
        [*LAUNCH, "chat", "--resume", "--plain"],
        input="What is 4 + 4?\n", capture_output=True, text=True, env=own, timeout=90,
    )  # fmt: skip
    assert first.strip()
    assert again.returncode == 0, again.stderr
    assert "1 turn, 'My name is Ada.'" in again.stderr
    assert again.stdout.strip()


def plan_of(hosts: tuple[str, ...] = ("localhost", "localhost"), secret: str = "s") -> Plan:
    return new_plan(list(hosts), secret)


def test_a_machine_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leading, "GATHER_S", 0.3)
    with pytest.raises(BackendError, match=r"machine 1 \(localhost\) did not answer") as caught:
        Lead(plan_of()).gather()
    assert "got 1 of 2" in str(caught.value)


def joined(plan: Plan, other: Plan, rank: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a first machine says of another that asks to join."""
    from threading import Thread

    monkeypatch.setattr(leading, "GATHER_S", 2.0)
    said: list[str] = []

    def gather() -> None:
        try:
            Lead(plan).gather()
        except BackendError as error:
            said.append(str(error))

    thread = Thread(target=gather)
    thread.start()
    try:
        Follower(other, rank).line.close()
    except BackendError as error:
        said.append(str(error))
    thread.join()
    return "\n".join(said)


def test_who_does_not_know_the_secret_stays_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    plan = plan_of()
    said = joined(plan, replace(plan, secret="another"), 1, monkeypatch)
    assert "secret" in said or "ended the connection" in said
    assert "did not answer" in said


def test_a_rank_that_the_group_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of()
    assert "no rank 5" in joined(plan, plan, 5, monkeypatch)


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert versions.difference(versions.own()) == ""
    mine = versions.own()
    assert versions.difference(mine | {"mlx": "0.1"}) == f"mlx 0.1 there, {mine['mlx']} here"
    assert "mlx unknown there" in versions.difference(None)
    plan = plan_of()
    real = versions.difference
    monkeypatch.setattr(versions, "difference", lambda said: real({**said, "mlx": "0.1"}))
    assert "machine 1 can't join: got mlx 0.1 there" in joined(plan, plan, 1, monkeypatch)


@pytest.mark.parametrize("noise", [b"GET / HTTP/1.1\r\n\r\n", b"[" * 200_000 + b"\n"])
def test_noise_on_the_port_is_left_outside(monkeypatch: pytest.MonkeyPatch, noise: bytes) -> None:
    monkeypatch.setattr(leading, "GATHER_S", 1.0)
    door = socket.create_server(("127.0.0.1", 0))
    plan = plan_of()
    with socket.create_connection(door.getsockname()) as caller:
        caller.sendall(noise)
        with pytest.raises(BackendError, match="did not answer"):
            Lead(plan).gather(door)


def follower(plan: Plan) -> Follower:
    """One that has no line yet."""
    found = object.__new__(Follower)
    found.plan, found.rank, found.network, found.caches = plan, 1, None, {}
    found._pending = None
    return found


def test_a_checkpoint_that_is_missing_or_another_is_refused() -> None:
    message = {"do": "load", "model": "demo", "digest": "another", "cache_format": [None, None, 4]}
    message |= {"context": None, "force": False}
    with pytest.raises(ModelNotFoundError, match="demo is another checkpoint here: got "):
        follower(plan_of())._load(message)
    missing = {**message, "model": "32b"}
    with pytest.raises(ModelNotFoundError, match="32b is not on this machine"):
        follower(plan_of())._load(missing)


def test_a_digest_looks_at_what_the_files_hold_and_not_at_their_times(tmp_path: Path) -> None:
    source = resolve.resolve("demo")
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    os.utime(tmp_path / "model.safetensors", (1, 1))
    assert versions.digest(tmp_path) == versions.digest(source)
    (tmp_path / "config.json").write_bytes((source / "config.json").read_bytes() + b" ")
    assert versions.digest(tmp_path) != versions.digest(source)


@pytest.mark.slow
def test_the_link_is_measured() -> None:
    run = subprocess.run(
        [*LAUNCH, "doctor", "--group"],
        capture_output=True, text=True, env=environment(), timeout=60,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "µs for 8 KB" in run.stdout
    assert "B/s at 8 MB" in run.stdout
    assert "235B-A22B" in run.stdout


def test_a_link_says_which_way_pays() -> None:
    quick = dict(measure.report(2, {"sum_s": 10e-6, "bytes_s": 5e9}))
    slow = dict(measure.report(2, {"sum_s": 300e-6, "bytes_s": 1e9}))
    assert quick["235B-A22B"].startswith("attention split pays")
    assert slow["30B-A3B"].startswith("one machine pays")
    assert slow["235B-A22B"].startswith("attention whole pays")  # no single one holds it


@pytest.mark.parametrize(
    ("hosts", "said"),
    [
        (["localhost"], "2 to 16 names"),
        (["localhost"] * 17, "2 to 16 names"),
        (["127.0.0.2", "127.0.0.2"], "names a machine twice"),
        (["localhost", "127.0.0.2"], "the first one"),
    ],
)
def test_hosts_that_make_no_group(hosts: list[str], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        new_plan(hosts, "s")


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    plan = plan_of()
    assert read_plan(plan.text()) == plan
    variables = plan.variables(1, tmp_path)
    assert variables["MLX_RANK"] == "1"
    assert json.loads(Path(variables["MLX_HOSTFILE"]).read_text()) == [[x] for x in plan.links]
    assert (tmp_path / "plan.json").stat().st_mode & 0o77 == 0  # the secret is in it
    for text in ("", "[]", "{}", '{"hosts": ["a"]}', plan.text().replace("ring", "pigeons")):
        with pytest.raises(OptionError):
            read_plan(text)
