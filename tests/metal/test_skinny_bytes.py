"""How often `skinny` reads each expert's weights, counted where its text loads them: once."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import pytest

from qwen3_mlx.metal import launch as module
from qwen3_mlx.metal import skinny
from qwen3_mlx.metal.launch import Launch
from qwen3_mlx.metal.matrix import Matrix
from tests.metal import harness
from tests.metal.cases import EPS, gain, packed, random
from tests.metal.harness import on_cpu

BF16 = mx.bfloat16
EXPERTS, TOP_K, HIDDEN, FEED_FORWARD = 16, 4, 256, 128
LOAD = "words[a][r] = "
"""Where a lane takes 16 bytes of a matrix."""
SLOT = "(thread_position_in_grid.y * threads_per_grid.x + thread_position_in_grid.x)"


@pytest.fixture
def loads_of() -> str:
    """How often a load counts."""
    return "1"


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch, loads_of: str) -> list[int]:
    """Bytes of weights that each launch of `skinny` has loaded."""
    text = module.text
    counting = text("skinny.metal").replace("int rows =", f"loads[{SLOT}] = 0;\nint rows =", 1)
    counting = counting.replace(LOAD, f"loads[{SLOT}] += {loads_of};\n{LOAD}", 1)
    assert counting.count(f"loads[{SLOT}]") == 2
    given = {"skinny.metal": counting}
    monkeypatch.setattr(module, "text", lambda name: given.get(name) or text(name))
    monkeypatch.setattr(module, "kernel", module.kernel.__wrapped__)
    monkeypatch.setattr(harness, "hold_to_metal", lambda *_: None)
    found: list[int] = []

    def run(launch: Launch) -> list[mx.array]:
        if launch.kernel != "skinny":
            return on_cpu(launch)
        threads = launch.grid[0] * launch.grid[1]
        outputs = {**launch.outputs, "loads": ((threads,), mx.uint32)}
        *made, loads = on_cpu(replace(launch, outputs=outputs))
        found.append(16 * int(loads.sum()))
        return made

    monkeypatch.setattr(module, "executor", run)
    return found


def bytes_of(matrix: Matrix) -> int:
    """Bytes of one expert's packed weights."""
    return matrix.weight.nbytes // EXPERTS


@pytest.mark.parametrize("rows", [2, 4, 8, 16])
def test_a_block_of_experts_reads_each_that_was_chosen_once(rows: int, counted: list[int]) -> None:
    """However many rows chose it; 1.3 times those bytes was the bound."""
    mx.random.seed(rows)
    x, norm = random(rows, 1, HIDDEN, dtype=BF16), gain(HIDDEN, BF16)
    gate, up = (packed((4, 64), BF16, EXPERTS, FEED_FORWARD, HIDDEN) for _ in range(2))
    down = packed((4, 64), BF16, EXPERTS, HIDDEN, FEED_FORWARD)
    logits = random(rows, 1, EXPERTS, dtype=BF16)
    h, groups = skinny.hidden(x, logits, gate, up, TOP_K, True, norm, EPS)
    skinny.down(h, down, groups)
    distinct = int(groups.experts[0])
    assert distinct < rows * TOP_K or rows == 2, "some rows share an expert"
    assert counted == [distinct * 2 * bytes_of(gate), distinct * bytes_of(down)]


@pytest.mark.parametrize("rows", [2, 8, 16])
def test_a_dense_block_reads_its_matrices_once(rows: int, counted: list[int]) -> None:
    x = random(rows, 1, HIDDEN, dtype=BF16)
    gate, up = (packed((4, 64), BF16, FEED_FORWARD, HIDDEN) for _ in range(2))
    skinny.matvec(skinny.gate_up(x, gate, up)[..., :HIDDEN], [packed((4, 64), BF16, 64, 128)])
    assert counted == [2 * gate.weight.nbytes, 64 * 128 // 2]


@pytest.mark.parametrize("loads_of", ["2"])
def test_a_second_read_is_counted(counted: list[int]) -> None:
    x = random(2, 1, HIDDEN, dtype=BF16)
    skinny.matvec(x, [packed((4, 64), BF16, 64, HIDDEN)])
    assert counted == [2 * 64 * HIDDEN // 2]
