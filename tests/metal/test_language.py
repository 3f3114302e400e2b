"""Metal's rules, without a Mac: mutants that must be noticed, and every published text."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from qwen3_mlx.bench.random_network import SHAPES
from qwen3_mlx.config import Qwen3Config
from qwen3_mlx.metal.variants import PLAIN, Signature, variants
from qwen3_mlx.metal.variants_rows import variants_of_rows
from tests.metal.cases import DTYPES
from tests.metal.harness import folder, metal_source
from tests.metal.language import are_right, cached_faults, compiler, faults, remember_right

pytestmark = pytest.mark.skipif(
    compiler() is None, reason="no clang of version 16 or newer: Metal's language is not checked"
)

GOOD = """
template <int N>
struct Sum {
static constant constexpr const int SIZE = N;
float x[SIZE];
void load(const device float* from) { for (int i = 0; i < N; i++) x[i] = from[i]; }
float total(const thread float* w) { float t = 0; for (int i = 0; i < N; i++) t += x[i] * w[i]; return t; }
};
inline float first(const device float* from) { return from[0]; }
template <typename T, int N>
[[kernel]] void custom_kernel_k(
  const device bfloat16_t* a [[buffer(0)]],
  const device float* b [[buffer(1)]],
  const constant int32_t* c [[buffer(2)]],
  device bfloat16_t* y [[buffer(3)]],
  uint thread_index_in_simdgroup [[thread_index_in_simdgroup]],
  uint3 threadgroup_position_in_grid [[threadgroup_position_in_grid]]) {
threadgroup float staged[32];
uint lane = thread_index_in_simdgroup;
staged[lane] = float(a[lane]);
threadgroup_barrier(mem_flags::mem_threadgroup);
Sum<N> s;
s.load(b + c[0]);
float w[N];
for (int i = 0; i < N; i++) w[i] = staged[i];
float t = simd_sum(s.total(w)) + metal::exp2(first(b));
if (lane == 0) y[threadgroup_position_in_grid.x] = T(t);

}

template [[host_name("custom_kernel_k")]] [[kernel]] decltype(custom_kernel_k<bfloat16_t, 4>) custom_kernel_k<bfloat16_t, 4>;
"""  # noqa: E501

KERNEL = "template <typename T, int N>\n[[kernel]]"
MUTANTS = {
    "constant for device": ("const device float* b [[", "const constant float* b [["),
    "threadgroup for thread": ("s.total(w)", "s.total(staged)"),
    "a pointer without a space": ("first(const device float* from)", "first(const float* from)"),
    "a reference without a space": ("first(const device float* from)", "first(const float& from)"),
    "auto without a space": ("float w[N];", "auto* q = b; float w[N]; w[0] = q[0];"),
    "a static that is not constant": ("static constant constexpr", "static constexpr"),
    "a method on threadgroup memory": ("Sum<N> s;", "threadgroup Sum<N> s;"),
    "threadgroup memory in a function": (
        "{ return from[0]; }",
        "{ threadgroup float q[4]; return q[0]; }",
    ),
    "a derived class": (KERNEL, f"struct A {{ float q; }};\nstruct B : A {{}};\n{KERNEL}"),
    "a derived class, squeezed": (KERNEL, f"struct A{{float q;}};\nstruct B:A{{}};\n{KERNEL}"),
    "a derived specialisation": (
        KERNEL,
        f"struct A {{ float q; }};\ntemplate <> struct Sum<7>:A {{}};\n{KERNEL}",
    ),
    "a derived template": (KERNEL, f"template <int N> struct B : Sum<N> {{}};\n{KERNEL}"),
    "double": ("float t = simd_sum", "double t = simd_sum"),
    "not ASCII": ("uint lane =", "/* \u03a3 */ uint lane ="),
    "a bfloat in a simd function": ("simd_sum(s.total(w))", "float(simd_sum(T(s.total(w))))"),
    "too much threadgroup memory": ("staged[32]", "staged[8193]"),
    "C++17": ("if (lane == 0)", "if constexpr (N == 4) w[0] = 0;\nif (lane == 0)"),
    "std": ("metal::exp2(first(b))", "std::exp2(first(b))"),
    "a half in a float's function": ("metal::exp2(first(b))", "float(metal::exp2(half(1)))"),
    "a lambda": ("if (lane == 0)", "auto f = [&]() { return 1.0f; };\nif (lane == 0)"),
    "as_type of another size": ("T(t)", "T(as_type<float>(ushort(1)) + t)"),
    "a name Metal doesn't have": ("metal::exp2(first(b))", "metal::expe(first(b))"),
    "an exception": ("if (lane == 0)", "try { t = 0; } catch (...) {}\nif (lane == 0)"),
    "new": ("float w[N];", "thread float* w = new float[N];"),
    "a space lost in a cast": ("s.load(b + c[0])", "s.load((const device float*)staged)"),
}


def test_a_good_text_has_no_faults() -> None:
    assert faults(GOOD) == []
    assert are_right([GOOD, GOOD])


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_noticed(name: str) -> None:
    old, new = MUTANTS[name]
    assert GOOD.count(old) >= 1
    assert faults(GOOD.replace(old, new, 1))
    assert not are_right([GOOD, GOOD.replace(old, new, 1), GOOD])


def test_threadgroup_memory_is_counted_to_the_byte() -> None:
    most = GOOD.replace("staged[32]", "staged[8192]")
    assert faults(most) == []
    more = most.replace("uint lane", "threadgroup uint one[1];\none[0] = 0;\nuint lane", 1)
    assert faults(more) == ["32772 bytes of threadgroup memory: Metal gives 32768"]
    assert are_right([most, GOOD]) and not are_right([most, more])


PACKINGS = [(4, 64), (8, 64), PLAIN]
KV_PACKINGS = [PLAIN, (8, 64), (4, 64)]


def signatures(shape: str) -> Iterator[Signature]:
    """The published `shape` in every packing, of its weights and of its cache, and dtype."""
    config = Qwen3Config.from_dict(SHAPES[shape].config())
    for dtype in DTYPES:
        for packing in PACKINGS:
            for kept in KV_PACKINGS if packing == PACKINGS[0] else KV_PACKINGS[:1]:
                router = (8, 64) if packing[0] else PLAIN
                yield Signature.of(config, dtype, packing, router, kept)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [name for name in SHAPES if not name.startswith("tiny")])
def test_every_published_text(shape: str) -> None:
    """Nine shapes, in 4 bits, 8 bits and plain, in three dtypes: all that Macs will compile."""
    launches = [
        launch
        for network in signatures(shape)
        for launch in [*variants(network), *variants_of_rows(network)]
    ]
    texts = {metal_source(launch): launch.kernel for launch in launches}
    assert len(texts) >= 50
    remember_right([*texts], folder())
    found = {text: cached_faults(text, folder()) for text in texts}
    wrong = [(texts[text], said) for text, said in found.items() if said]
    assert not wrong, f"{len(wrong)} of {len(texts)}: {wrong[0]}"
