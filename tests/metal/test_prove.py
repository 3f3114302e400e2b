"""The proof: what it finds right, each thing that can go wrong in it, and what the user gets then.

A network on the processor's shim stands for one on a GPU: `launch.trusted` is off, so everything
goes by verdicts. Whatever happens, the tokens are those of QWEN3_MLX_KERNELS=off.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import qwen3_mlx.device.backend as backend

import mlx.core as mx
import pytest

from qwen3_mlx.bench.random_network import SHAPES
from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.metal import attend, cases, launch, prove, verdict
from qwen3_mlx.metal.comparison import BOUNDS
from qwen3_mlx.metal.launch import Launch
from qwen3_mlx.metal.variants import PLAIN, Signature, text_key, variants
from qwen3_mlx.metal.variants_rows import variants_of_rows
from qwen3_mlx.metal.verdict import Verdict
from qwen3_mlx.nn import trial
from qwen3_mlx.nn.fused_step import FusedStep, unavailable_reason
from qwen3_mlx.nn.signature import verdict_file
from qwen3_mlx.options import CacheFormat
from tests import oracle
from tests.metal.judged import MOE, keep, net, plain, proven, said

pytestmark = pytest.mark.usefixtures("judged")


@pytest.mark.parametrize("changes", [{}, MOE])
def test_a_network_is_proven_in_a_child(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """End to end: right, timed by a clock to which kernels are faster, then used and read again."""
    network = net(**changes)
    off = plain(network, monkeypatch)
    assert trial.wanted(network)
    monkeypatch.setattr(trial, "readings", lambda *_: proven("fused", "hybrid").readings)
    held, unkept = trial.run(network, model="tiny")
    assert held is not None and unkept is None
    assert held.wrong == {} and {"matvec", "attend", "gate_up", "step"} <= set(held.right)
    assert not trial.wanted(network) and unavailable_reason(network) is None
    file = verdict_file(network)
    assert file is not None and verdict.read(file) == held
    step = FusedStep.if_available(network)
    assert step is not None and step.arms == ("fused", "hybrid")
    assert said(network) == off


FAULTS = {
    "wrong": "squared error",
    "refused": "Thread group size (512)",
    "hang": "still running after",
    "segfault": "ended by SIGSEGV",
    "exit": "exit 3",
    "memory": "exit 71: out of memory",
    "killed": "ended by SIGKILL",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_goes_wrong_in_the_child_is_a_verdict(
    fault: str, monkeypatch: pytest.MonkeyPatch, launches: list[Launch]
) -> None:
    monkeypatch.setenv("QWEN3_TEST_FAULT", fault)
    if fault == "hang":
        limited = prove.prove
        monkeypatch.setattr(prove, "ROWS_LIMIT_S", 8.0)
        monkeypatch.setattr(prove, "prove", lambda *a, **k: limited(*a, limit_s=8.0, **k))
    network = net()
    off = plain(network, monkeypatch)
    held, _ = trial.run(network)
    assert held is not None and FAULTS[fault] in held.wrong["attend"]
    assert held.readings == {} and held.late.get("step", 0) == held.late.get("attend", 0)
    again = fault in ("hang", "memory", "killed")  # no fault of the kernel's own
    assert trial.wanted(network) == (held.late.get("step", 0) > 0) == again
    for kernels in ("", "auto"):
        monkeypatch.setenv("QWEN3_MLX_KERNELS", kernels)
        assert unavailable_reason(network) is not None
        launches.clear()
        assert said(network) == off and launches == []


def test_forcing_proves_first(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    """`auto` skips the timing, never the proof."""
    monkeypatch.setenv("QWEN3_MLX_KERNELS", "auto")
    monkeypatch.setenv("QWEN3_TEST_FAULT", "refused")
    asked: list[object] = []
    monkeypatch.setattr(prove, "prove", lambda found, **_: asked.append(found) or Verdict())
    network = net()
    assert len(asked) == 1
    assert "not tried on this machine" in (unavailable_reason(network) or "")
    assert len(asked) == 1, "a verdict is kept"
    assert capfd.readouterr().err.count("trying the kernels") == 1
    keep(network, proven("stock", "stock"))
    step = FusedStep.if_available(network)
    assert step is not None and step.arms == ("fused", "fused")
    monkeypatch.setenv("QWEN3_MLX_KERNELS", "attend")
    step = FusedStep.if_available(network)
    assert step is not None and step.arms == ("hybrid", "hybrid")


@pytest.mark.parametrize("arm", ["hybrid", "fused"])
@pytest.mark.parametrize("changes", [{}, MOE])
def test_every_arm_says_the_same(
    arm: Any, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch, launches: list[Launch]
) -> None:
    network = net(**changes)
    off = plain(network, monkeypatch)
    keep(network, proven(arm, "stock"))
    launches.clear()
    assert said(network) == off
    kernels = {launch.kernel for launch in launches}
    assert "attend" in kernels and ("matvec" in kernels) == (arm == "fused")
    assert ("down" in kernels) == bool(changes)


def test_the_cache_grows_only_behind_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    network = net()
    keep(network, proven("fused", "fused"))
    step = FusedStep.if_available(network)
    assert step is not None
    cache = step.make_cache()
    network(mx.array([[1, 2]]), cache)
    for token in (3, 4, 5):  # the tail is full
        step(mx.array([[token]]), cache)
    grown: list[int] = []
    monkeypatch.setattr(step, "_run", lambda *_: (_ for _ in ()).throw(ValueError("no")))
    monkeypatch.setattr(type(cache[0]), "grow", lambda self, tail: grown.append(1))
    got = step(mx.array([[6]]), cache)
    assert grown == [] and {layer.offset for layer in cache} == {6}
    oracle.assert_close(got, network(mx.array([[1, 2, 3, 4, 5, 6]]))[:, -1:], bound=1e-10)


BAD = {
    "damaged": b'{"wrong": {}, "ri',
    "empty": b"",
    "another's": b'{"wrong": [], "right": 3, "readings": {}}',
    "unknown arm": b'{"readings": {"5": {"rates": {}, "gains": {}, "winner": "best"}}}',
    "more than it should have": b'{"readings": {}, "colour": "red"}',
    "no object": b"[1, 2]",
    "not text": bytes(range(200, 256)),
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("kind", BAD)
def test_a_damaged_verdict_is_none(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = net()
    file = keep(network, proven("fused", "fused"))
    assert unavailable_reason(network) is None
    file.write_bytes(BAD[kind])
    assert "not yet tried" in (unavailable_reason(network) or "")
    assert trial.wanted(network)
    assert said(network) == plain(network, monkeypatch)


CHANGES: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "mlx": lambda patch: patch.setattr(verdict, "version", lambda _name: "99.0"),
    "machine": lambda patch: patch.setattr(verdict, "machine", lambda: "metal Apple M9"),
    "system": lambda patch: patch.setattr(verdict, "system_build", lambda: "99Z1"),
    "texts": lambda patch: patch.setattr(verdict, "_texts", lambda: "other"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_another_machine_s_verdict_says_nothing_here(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = net()
    keep(network, proven("fused", "fused"))
    assert unavailable_reason(network) is None
    CHANGES[what](monkeypatch)
    assert "not yet tried" in (unavailable_reason(network) or "")


def test_linux_names_nvidias_driver_which_changes_apart_from_the_kernel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    build, file = verdict.system_build.__wrapped__, tmp_path / "version"
    monkeypatch.setattr(verdict, "NVIDIA_DRIVER", file)
    assert build() == platform.release(), "no driver"
    file.write_text("NVRM version: 580.1\nGCC version: 12\n")
    assert build() == f"{platform.release()} NVRM version: 580.1"


def test_nor_does_another_network_s() -> None:
    network = net(head_dim=32)
    keep(network, proven("fused", "fused"))
    assert unavailable_reason(network, CacheFormat(bits=8)) is not None
    assert unavailable_reason(net(head_dim=32, intermediate_size=64)) is not None
    assert unavailable_reason(net(head_dim=32, **MOE)) is not None
    assert (
        unavailable_reason(net(head_dim=32, num_hidden_layers=3)) is None
    )  # the same layers, once more


def test_a_full_disk_or_a_folder_that_can_t_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    network = net()
    off = plain(network, monkeypatch)
    monkeypatch.setattr(prove, "prove", lambda *_a, **_k: proven("fused", "fused"))

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(verdict, "write_atomically", full)
    assert trial.run(network)[1] == "No space left on device"
    assert said(network) == off and trial.wanted(network)
    monkeypatch.undo()
    monkeypatch.setattr(launch, "trusted", False)
    monkeypatch.setattr(backend, "device", lambda: "metal")
    monkeypatch.setattr(prove, "prove", lambda *_a, **_k: proven("fused", "fused"))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("QWEN3_MLX_HOME", str(tmp_path / "file"))
    monkeypatch.delenv("QWEN3_MLX_KERNELS", raising=False)
    assert trial.run(network)[1] is not None
    assert said(network) == off


def test_two_processes_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each proves for itself; whichever file comes last is whole, and both say the same."""
    off = plain(net(), monkeypatch)
    command = [sys.executable, "-m", "tests.metal.start_on_shim"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    found = [json.loads(one.communicate(timeout=300)[0].splitlines()[-1]) for one in both]
    assert [(one["unkept"], one["said"]) for one in found] == [(None, off)] * 2
    files = list((tmp_path / "kernels").iterdir())
    assert [file.name for file in files] == [found[0]["file"]] == [found[1]["file"]]
    held = verdict.read(files[0])
    assert held is not None and held.wrong == {} and held.arms() == ("fused", "fused")


WRITER = """
import sys
from pathlib import Path
from qwen3_mlx.metal import verdict
held = verdict.Verdict(right=["matvec"] * 2000, model=sys.argv[2])
print(all(verdict.write(Path(sys.argv[1]), held) is None for _ in range(200)))
"""


def test_a_reader_between_two_writers_sees_whole_verdicts(tmp_path: Path) -> None:
    file = tmp_path / "kernels" / "x.json"
    assert verdict.write(file, Verdict()) is None
    command = [sys.executable, "-c", WRITER, str(file)]
    both = [subprocess.Popen([*command, n], stdout=subprocess.PIPE) for n in ("a", "b")]
    met = set()
    while any(one.poll() is None for one in both):
        held = verdict.read(file)
        assert held is not None and len(held.right) in (0, 2000)
        met.add(held.model)
    assert {"a", "b"} & met
    assert [one.communicate()[0].strip() for one in both] == [b"True"] * 2
    assert [path.name for path in file.parent.iterdir()] == ["x.json"], "something was left"


def test_ctrl_c_in_the_middle_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No verdict, no child; the next start tries again."""
    monkeypatch.setenv("QWEN3_TEST_FAULT", "hang")
    network = net()
    off = plain(network, monkeypatch)
    started: list[Any] = []
    start = prove._start

    def noted(*args: Any) -> Any:
        started.append(start(*args))
        return started[-1]

    monkeypatch.setattr(prove, "_start", noted)
    begin = time.monotonic()

    def pressed() -> bool:
        if time.monotonic() - begin > 1.5:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        trial.run(network, skipped=pressed)
    assert len(started) == 1 and started[0].poll() is not None  # that of the rows never began
    begin = time.monotonic()
    with pytest.raises(prove.Skipped):
        trial.run(network, skipped=lambda: time.monotonic() - begin > 0.5)
    assert not (tmp_path / "kernels").exists()
    assert trial.wanted(network) and said(network) == off


def recorded(signature: Signature) -> set[object]:
    """The texts that the proof's cases launch, without computing any."""
    met: set[object] = set()

    def record(given: Launch) -> list[mx.array]:
        met.add(text_key(given))
        return [mx.zeros(shape, dtype) for shape, dtype in given.outputs.values()]

    with launch.executing_with(record):
        for case in cases.cases(signature):
            case.run(case.x)
    return met


@pytest.mark.parametrize("device", ["metal", "cuda"])
@pytest.mark.parametrize("shape", ["0.6b", "8b", "30b-a3b", "480b-a35b"])
@pytest.mark.parametrize("kept", [PLAIN, (8, 64)])
def test_every_text_of_a_network_is_tried(
    shape: str, device: str, kept: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the published sizes: what `variants` lists is among what the cases launch."""
    monkeypatch.setattr(backend, "device", lambda: device)
    monkeypatch.setattr(attend, "TAIL", 64)
    config = Qwen3Config.from_dict(SHAPES[shape].config())
    own = Signature.of(config, mx.bfloat16, (4, 64), (8, 64), kept)
    listed = [*variants(own), *variants_of_rows(own)]
    missing = {text_key(one) for one in listed} - recorded(own)
    assert not missing, {key[0] for key in missing}  # type: ignore[index]  # the kernel's name


def test_bounds_are_the_suite_s() -> None:
    named = {str(dtype).removeprefix("mlx.core."): bound for dtype, bound in BOUNDS.items()}
    assert named == oracle.BOUNDS


def test_signatures_survive_their_way_to_the_child() -> None:
    every = [
        Signature.of(Qwen3Config.from_dict(SHAPES[shape].config()), dtype, (4, 64), (8, 64), kept)
        for shape in ("8b", "30b-a3b")
        for dtype in (mx.float16, mx.bfloat16)
        for kept in (PLAIN, (4, 32))
    ]
    every.append(replace(every[0], others=(("down", (8, 32)), ("head", (6, 64)))))
    again = verdict.parsed(json.loads(json.dumps(verdict.described(every))))
    assert set(again) == set(every)
