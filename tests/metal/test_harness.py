"""The machine under the other tests: it computes what Metal would, and notices what is wrong."""

from __future__ import annotations

from collections.abc import Callable

import qwen3_mlx.device.backend as backend

import mlx.core as mx
import numpy as np
import pytest

from qwen3_mlx.metal import launch as build
from qwen3_mlx.metal.launch import Launch, run
from tests.metal import harness
from tests.metal.harness import KernelError, LanguageError, metal_source
from tests.metal.language import compiler

pytestmark = pytest.mark.skipif(
    backend.device() != "cpu", reason="this is about the CPU that stands in for a GPU"
)

Text = Callable[[str], None]


@pytest.fixture
def body(monkeypatch: pytest.MonkeyPatch) -> Text:
    """``body(text)``: what the kernel `try` of this test does."""
    text = build.text
    monkeypatch.setattr(build, "kernel", build.kernel.__wrapped__)

    def put(source: str) -> None:
        monkeypatch.setattr(build, "text", lambda f: source if f == "try.metal" else text(f))

    return put


def launch(
    x: mx.array, size: int, dtype: mx.Dtype = mx.float32, threads: int = 32, groups: int = 1
) -> mx.array:
    grid = (threads * groups, 1, 1)
    outputs = {"y": ((size,), dtype)}
    (y,) = run(Launch("try", {"x": x}, outputs, {"T": dtype}, grid, (threads, 1, 1)))
    return y


RAMP = mx.arange(64).astype(mx.float32)
LANE = "uint l = thread_index_in_simdgroup; uint i = thread_position_in_grid.x;"


def test_simd_operations(body: Text) -> None:
    body(
        f"""{LANE}
        float v = x[i];
        y[i] = simd_sum(v); y[i + 64] = simd_max(v); y[i + 128] = simd_min(v);
        y[i + 192] = simd_shuffle_xor(v, 5); y[i + 256] = simd_broadcast(v, 3);
        y[i + 320] = simd_shuffle_down(v, 30); y[i + 384] = simd_shuffle(v, 31 - l);"""
    )
    y = np.array(launch(RAMP, 7 * 64, threads=64)).reshape(7, 2, 32)
    x = np.arange(64.0).reshape(2, 32)
    lanes = np.arange(32)
    shifted = np.where(lanes < 2, x[:, (lanes + 30) % 32], x)
    want = [x.sum(1), x.max(1), x.min(1), x[:, lanes ^ 5], x[:, 3], shifted, x[:, ::-1]]
    for got, right in zip(y, want, strict=True):
        np.testing.assert_array_equal(got, right if right.ndim == 2 else right[:, None] + 0 * x)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_rounding_is_to_nearest_even(body: Text, dtype: mx.Dtype) -> None:
    body(f"{LANE} y[i] = T(x[i]);")
    random = mx.random.normal((500,)) * mx.exp(4 * mx.random.normal((500,)))
    odd = mx.array([0.0, -0.0, float("inf"), -float("inf"), 65519.0, 65520.0, 3.4e38, 1e-40])
    halves = 1 + mx.arange(4).astype(mx.float32) / 256 + mx.array(2.0**-9)  # ties
    x = mx.concatenate([random, odd, halves])
    got = launch(x, x.size, dtype, threads=512)
    assert got.view(mx.uint16).tolist() == x.astype(dtype).view(mx.uint16).tolist()
    assert mx.isnan(launch(mx.full((32,), float("nan")), 32, dtype)).all()


def test_threads_share_memory_behind_a_barrier(body: Text) -> None:
    body(
        """threadgroup float a[64];
        uint t = thread_position_in_threadgroup.x;
        a[t] = x[t];
        threadgroup_barrier(mem_flags::mem_threadgroup);
        y[threadgroup_position_in_grid.x * 64 + t] = a[63 - t];"""
    )
    y = launch(RAMP, 128, threads=64, groups=2)
    assert y.tolist() == 2 * list(range(63, -1, -1))


FAULTS = {
    "a barrier some threads miss": (
        f"{LANE} y[i] = 0; if (l < 5) threadgroup_barrier(mem_flags::mem_threadgroup);",
        "divergence",
    ),
    "lanes at different operations": (
        f"{LANE} float v = x[i]; if (l < 5) v = simd_sum(v);\n else v = simd_max(v);\n y[i] = v;",
        "divergence",
    ),
    "a lane that has left": (f"{LANE} if (l == 9) return; y[i] = simd_sum(x[i]);", "divergence"),
    "an input read behind its end": (f"{LANE} y[i] = x[i + 40];", "out of bounds: x"),
    "an input read before its start": (f"{LANE} y[i] = x[int(i) - 1];", "out of bounds: x"),
    "an output written behind its end": (f"{LANE} y[i + 1] = 0;", "out of bounds: y"),
    "an output written far behind its end": (f"{LANE} y[i + 900] = 0;", "out of bounds: y"),
    "an input written": (f"{LANE} ((device float*)x)[i] = 0; y[i] = 0;", "write to an input: x"),
    "a local array left": (f"{LANE} float a[4]; a[0] = 1; y[i] = a[i];", "out of bounds"),
    "who writes last wins": (f"{LANE} y[i] = 1; y[0] = float(i);", "race"),
    "two tiles with one barrier": (
        """threadgroup float a[64]; uint t = thread_position_in_threadgroup.x; float s = 0;
        for (int k = 0; k < 2; k++) {
          a[t] = x[(t + k) % 64];
          threadgroup_barrier(mem_flags::mem_threadgroup);
          s += a[63 - t];
        }
        y[t % 32] = s; y[t % 32] = simd_max(s);""",
        "race",
    ),
    "not Metal": ("this is no program", "error"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_noticed(fault: str, body: Text) -> None:
    text, said = FAULTS[fault]
    body(text)
    threads = 64 if "tiles" in fault else 32
    with pytest.raises(KernelError, match=said):
        launch(RAMP, 32, threads=threads)


@pytest.mark.skipif(compiler() is None, reason="no clang of version 16 or newer")
@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ("struct A { float q; }; struct B : A {}; B b; b.q = x[i]; y[i] = b.q;", "derived class"),
        ("const float* p = x; y[i] = p[i];", "address space"),
    ],
)
def test_what_metal_would_not_take_is_noticed(
    rest: str, said: str, body: Text, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CPU without address spaces computes it well all the same."""
    body(f"{LANE} {rest}")
    with pytest.raises(LanguageError, match=f"try: .*{said}"), harness.reading_together():
        assert launch(RAMP, 32).tolist() == RAMP[:32].tolist()
    monkeypatch.setattr(harness, "_unread", None)
    with pytest.raises(LanguageError, match=said):
        launch(RAMP, 32)


def test_what_is_not_written_is_not_a_number(body: Text) -> None:
    body(f"{LANE} if (l != 7) y[i] = 1;")
    assert mx.isnan(launch(RAMP, 32)).tolist() == [i == 7 for i in range(32)]


def test_threadgroup_memory_starts_as_nan(body: Text) -> None:
    body(f"{LANE} threadgroup float a[32]; y[i] = a[l]; a[l] = 1;")
    assert mx.isnan(launch(RAMP, 64, groups=2)).all()


def test_shapes_are_passed_where_the_text_asks(body: Text) -> None:
    body(f"{LANE} y[i] = float(x_shape[0] * 100 + x_shape[1]);")
    assert launch(RAMP.reshape(4, 16), 32).tolist() == [416.0] * 32


def test_the_text_is_what_mlx_would_compile(body: Text) -> None:
    body(f"{LANE} y[i] = x[i];")
    constants = {"T": mx.float32, "N": 3, "B": True}
    outputs, size = {"y": ((32,), mx.float32)}, (32, 1, 1)
    text = metal_source(Launch("try", {"x": RAMP}, outputs, constants, size, size))
    assert "[[kernel]] void custom_kernel_qwen3_try" in text
    assert "template <typename T, int N, bool B>" in text and "const device float* x" in text
