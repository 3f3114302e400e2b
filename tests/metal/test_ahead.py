"""What is compiled ahead: by the parent of a proof, and while weights are read."""

from __future__ import annotations

import itertools
import json
import os
import threading
from pathlib import Path
from typing import Any

import qwen3_mlx.device.backend as backend

import mlx.core as mx
import pytest

from qwen3_mlx.checkpoint import load_network
from qwen3_mlx.metal import launch, proof_parts, prove
from qwen3_mlx.metal.child_output import ChildOutput
from qwen3_mlx.metal.launch import Launch
from qwen3_mlx.metal.variants import text_digest, variants
from qwen3_mlx.metal.verdict import Verdict
from qwen3_mlx.nn import ahead
from qwen3_mlx.nn.ahead import Ahead
from qwen3_mlx.nn.fused_step import FusedStep
from qwen3_mlx.nn.signature import signatures
from qwen3_mlx.nn.transformer import Qwen3Network
from tests.checkpoints import GOLDEN
from tests.metal import harness
from tests.metal.judged import MOE, keep, net, plain, proven, said

pytestmark = pytest.mark.usefixtures("judged")

SHARED = [["step"], ["matvec", "gate_up"], ["attend"]]


def test_on_cuda_a_kernel_has_a_child_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as half the cores go; the layer begins at once. Elsewhere one child tries all."""
    dense, experts = signatures(net()), signatures(net(**MOE))
    one, several = proof_parts.shares(experts)
    assert one[-1] == "step" and len(one) == 7 and several == ["attend_rows"]
    assert proof_parts.shares(experts, rows=False) == [one]
    monkeypatch.setattr(backend, "device", lambda: "cuda")
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    rows = [[f"attend_rows@{n}of4"] for n in (1, 2, 3, 4)]
    assert proof_parts.shares(dense) == [["step"], ["matvec"], ["gate_up"], ["attend"], *rows]
    assert proof_parts.shares(experts)[7:] == rows
    assert proof_parts.parts_of(["attend_rows", "skinny"]) == [["attend_rows"], ["skinny"]]
    assert proof_parts.parts_of(["matvec=8,2", "down=1,8"]) == [["matvec=8,2", "down=1,8"]]
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    two = proof_parts.shares(experts)
    assert len(two) == 3 and two[0][-1] == "step" and sum(map(len, two)) == 8
    for cores in (1, 2, 3):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        assert proof_parts.shares(dense)[-1] == ["attend_rows"], "few cores try it too"


@pytest.mark.parametrize("count", [0, 1, 2, 3, 10, 28])
def test_the_parts_of_a_kernels_cases_are_all_of_them(count: int) -> None:
    parts = [proof_parts.cases_of(f"skinny@{n}of3", range(count)) for n in (1, 2, 3)]
    assert [*itertools.chain(*parts)] == [*range(count)]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert [*proof_parts.cases_of("skinny", range(count))] == [*range(count)]


def test_a_part_that_fails_is_its_kernels_fault(tmp_path: Path) -> None:
    """Although the other parts were right; and a part that ends early proves nothing."""
    case, found = {"kernel": "attend_rows", "name": "two rows"}, Verdict()
    for part, fault, code in ((1, None, 0), (2, "two rows: other numbers", 0), (3, None, 1)):
        said = ChildOutput(tmp_path, f"rows{part}", 0.0)
        lines = [case | {"fault": fault}, *([{"finished": True}] if code == 0 else [])]
        said.out.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        said.err.write_text("")
        before = dict(found.wrong)
        prove._add(found, said, code, 60.0, [f"attend_rows@{part}of3"])
        assert (found.wrong != before) == (part == 2)
    assert found.wrong == {"attend_rows": "two rows: other numbers"}
    early = Verdict()
    prove._add(early, said, 1, 60.0, ["attend_rows@3of3"])
    assert list(early.wrong) == ["attend_rows"]


def test_children_share_the_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Together they find what one does; the parent hears of each text that was right."""
    monkeypatch.setattr(prove, "shares", lambda *_: SHARED)
    heard: set[str] = set()
    found = prove.prove(signatures(net()), meanwhile=lambda texts: bool(heard.update(texts)))
    assert found.wrong == {} and found.right == ["attend", "gate_up", "matvec", "step"]
    assert {"right", "right, step", "right, attend", "right, compiled by it"} <= set(found.seconds)
    assert heard, "none was heard of before the end"


def test_a_fault_in_the_kernels_of_rows_leaves_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """So does a proof of theirs that takes too long."""
    monkeypatch.setattr(prove, "shares", lambda *_: [*SHARED, ["attend_rows"]])
    monkeypatch.setattr(prove, "ROWS_LIMIT_S", 0.0)
    monkeypatch.setenv("QWEN3_TEST_FAULT", "hang rows")
    found = prove.prove(signatures(net()), limit_s=20.0)
    assert found.right == ["attend", "gate_up", "matvec", "step"]
    assert list(found.wrong) == ["attend_rows"]
    assert "still running after 20 s" in found.wrong["attend_rows"]


def test_a_kernel_of_rows_is_right_when_all_its_cases_were(tmp_path: Path) -> None:
    """A child that ends between two cases proves none of its kernels."""
    said = ChildOutput(tmp_path, "rows", 0.0)
    case = {"kernel": "attend_rows", "name": "two rows"}
    said.out.write_text(f"{json.dumps(case)}\n{json.dumps(case | {'fault': None})}\n")
    said.err.write_text("")
    found = Verdict()
    prove._add(found, said, None, 60.0, ["attend_rows", "skinny"])
    assert set(found.wrong) == {"attend_rows", "skinny"}


@pytest.mark.parametrize("fault", ["wrong", "segfault"])
def test_a_fault_in_one_child_stops_the_step(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prove, "shares", lambda *_: SHARED)
    monkeypatch.setenv("QWEN3_TEST_FAULT", fault)
    texts: set[str] = set()
    network = signatures(net())
    found = prove.prove(network, meanwhile=lambda right: bool(texts.update(right)))
    assert set(found.wrong) == {"attend", "step"} and found.right == ["gate_up", "matvec"]
    attend = {text_digest(one) for one in variants(network[0]) if one.kernel == "attend"}
    assert not attend & texts


def test_only_what_is_right_is_compiled_and_only_on_cuda(
    monkeypatch: pytest.MonkeyPatch, launches: list[Launch]
) -> None:
    """MLX's own first, as nothing is known yet; each text once; a throw costs nothing."""
    found, done = signatures(net()), list[str]()

    def pieces() -> Any:
        return (lambda: done.append("a"), lambda: done.append("b"))

    assert not Ahead(pieces(), found)(["anything"]) and not done
    monkeypatch.setattr(backend, "device", lambda: "cuda")
    mine = Ahead(pieces(), found)
    digests = [text_digest(one) for one in variants(found[0])]
    launches.clear()
    assert mine([]) and done == ["a"] and not launches
    monkeypatch.setattr(backend, "device", lambda: "metal")
    assert mine(digests[:1]) and done == ["a"]
    assert [text_digest(one) for one in launches] == digests[:1]
    assert mine(digests[:1]) and done == ["a", "b"]
    assert not mine(digests[:1]) and len(launches) == 1
    assert set(mine.seconds) == {"meanwhile, kernels", "meanwhile, MLX's operations"}


def test_what_a_step_needs_is_compiled_first(
    monkeypatch: pytest.MonkeyPatch, launches: list[Launch]
) -> None:
    """The trial times steps: kernels of a prompt or of a few tokens are not in their way."""
    network = net(**MOE)
    keep(network, proven("fused", "fused"))
    launches.clear()
    step = FusedStep.if_available(network)
    assert step is not None
    cache = step.make_cache()
    network(mx.array([[1, 2]]), cache)
    launches.clear()
    step(mx.array([[3]]), cache)
    assert launches and not any(ahead._waits(one) for one in launches)
    monkeypatch.setattr(backend, "device", lambda: "cuda")
    waiting = [ahead._waits(one) for one in Ahead((), signatures(network))._launches.values()]
    assert waiting == sorted(waiting) and 0 < sum(waiting) < len(waiting)


def loaded(monkeypatch: pytest.MonkeyPatch, held: Verdict | None) -> Qwen3Network:
    """A checkpoint, loaded where `held` is its verdict, and the thread that compiles awaited."""
    monkeypatch.setattr(launch, "trusted", True)
    known = load_network(GOLDEN / "moe-norm")[0]
    monkeypatch.setattr(launch, "trusted", False)
    if held is not None:
        keep(known, held)
    harness.launches.clear()
    network = load_network(GOLDEN / "moe-norm")[0]
    for thread in threading.enumerate():
        if thread.name == "compile ahead":
            thread.join()
    return network


def test_a_later_start_compiles_while_weights_are_read(
    monkeypatch: pytest.MonkeyPatch, launches: list[Launch]
) -> None:
    """No text of the conversation is new when it begins."""
    network = loaded(monkeypatch, proven("fused", "fused"))
    before = {text_digest(one) for one in launches}
    launches.clear()
    said(network)
    used = {text_digest(one) for one in launches}
    assert used and used <= before


@pytest.mark.parametrize("held", [None, proven("stock", "stock"), Verdict(wrong={"step": "no"})])
def test_what_is_not_proven_or_not_faster_is_not_compiled(
    held: Verdict | None, monkeypatch: pytest.MonkeyPatch, launches: list[Launch]
) -> None:
    loaded(monkeypatch, held)
    assert launches == []


def test_a_compiler_s_fault_does_not_stop_the_load(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: Launch) -> Any:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(launch, "executor", refused)
    network = loaded(monkeypatch, proven("fused", "fused"))
    assert said(network) == plain(network, monkeypatch)
