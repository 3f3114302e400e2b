// Metal Shading Language on a CPU: what our kernels use of it, for g++ -std=c++20.
//
// One fiber per Metal thread, switched only at rendezvous: an operation of a simdgroup, or a
// barrier of the threadgroup. All lanes must meet at the same line, or the run ends with a message
// (divergence). Buffers end at unreadable pages, inputs are read-only, outputs and threadgroup
// memory start as NaN. See msl_runtime.cpp for the scheduler, harness.py for the driver.
//
// Not checked here: Apple's compiler's own rules (address spaces, attributes), the order in which
// simd_sum adds, memory ordering between threads beyond barriers, registers and speed.
#pragma once
#include <stddef.h>
#include <stdint.h>
// No other header of C++: reading <cmath> takes g++ longer than compiling a kernel.
#ifndef INFINITY
#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#endif

typedef unsigned int uint;
typedef unsigned short ushort;
typedef unsigned char uchar;
typedef _Float16 half;
typedef half float16_t;

struct bfloat {
  uint16_t bits;
  bfloat() = default;
  template <class A> requires requires(A a) { a * 1.0f; }
  explicit bfloat(A a) {
    float f = float(a);
    uint32_t u;
    __builtin_memcpy(&u, &f, 4);
    bool nan = (u & 0x7fffffff) > 0x7f800000;
    bits = nan ? (u >> 16) | 64 : (u + 0x7fff + ((u >> 16) & 1)) >> 16;  // nearest, ties to even
  }
  operator float() const {
    uint32_t u = uint32_t(bits) << 16;
    float f;
    __builtin_memcpy(&f, &u, 4);
    return f;
  }
};
typedef bfloat bfloat16_t;

template <class T, int N> struct vec;
template <class T> struct alignas(2 * sizeof(T)) vec<T, 2> {
  T x, y;
  vec() = default;
  vec(T a, T b) : x(a), y(b) {}
  T& operator[](int i) { return (&x)[i]; }
};
template <class T> struct alignas(4 * sizeof(T)) vec<T, 3> {
  T x, y, z;
  vec() = default;
  vec(T a, T b, T c) : x(a), y(b), z(c) {}
};
template <class T> struct alignas(4 * sizeof(T)) vec<T, 4> {
  T x, y, z, w;
  vec() = default;
  vec(T a, T b, T c, T d) : x(a), y(b), z(c), w(d) {}
  T& operator[](int i) { return (&x)[i]; }
};
typedef vec<uint, 2> uint2;
typedef vec<uint, 3> uint3;
typedef vec<uint, 4> uint4;
typedef vec<float, 2> float2;
typedef vec<float, 4> float4;
typedef vec<half, 4> half4;
typedef vec<bfloat, 4> bfloat4;

namespace shim {
constexpr int kLanes = 32;
uint self();                                   // index in the threadgroup
void meet_simdgroup(const char* what, int line);  // all lanes of the simdgroup, at one line
void meet_threadgroup(int line);
// Meets all lanes, each with a word; returns theirs, valid until the second rendezvous from now.
uint64_t* meet_with(uint64_t word, const char* what, int line);
extern uint3 group, groups, group_size, grid;

// A library's one kernel, as `shim_kernel`: its buffers, the outputs last; its threadgroup arrays
// lie between two places, null where it has none.
struct Kernel {
  int buffers, outputs;
  const char* const* names;
  void (*body)(void** buffers);
  char *threadgroup_start, *threadgroup_end;
};

inline uint lane() { return self() % kLanes; }
inline uint3 position_in_group() {
  uint t = self();
  return {t % group_size.x, t / group_size.x % group_size.y, t / (group_size.x * group_size.y)};
}
inline uint3 position_in_grid() {
  uint3 p = position_in_group();
  return {group.x * group_size.x + p.x, group.y * group_size.y + p.y,
          group.z * group_size.z + p.z};
}

template <class V> uint64_t* publish(V v, const char* what, int line) {
  static_assert(sizeof(V) <= 8);
  uint64_t word = 0;
  __builtin_memcpy(&word, &v, sizeof v);
  return meet_with(word, what, line);
}
template <class V> V word(const uint64_t* words, uint lane) {
  V v;
  __builtin_memcpy(&v, words + lane, sizeof v);
  return v;
}
template <class V> V exchange(V v, uint from, const char* what, int line) {
  return word<V>(publish(v, what, line), from);
}
// A butterfly, the same order in every lane.
template <class V, class F> V reduce(V v, F f, const char* what, int line) {
  uint64_t* words = publish(v, what, line);
  V all[kLanes];
  for (int i = 0; i < kLanes; i++) all[i] = word<V>(words, i);
  for (int step = kLanes / 2; step; step /= 2)
    for (int i = 0; i < step; i++) all[i] = f(all[i], all[i + step]);
  return all[0];
}
}  // namespace shim

#define SHIM_LINE int line = __builtin_LINE()
namespace metal {
enum class mem_flags { mem_none, mem_device, mem_threadgroup };
inline void threadgroup_barrier(mem_flags, SHIM_LINE) { shim::meet_threadgroup(line); }
inline void simdgroup_barrier(mem_flags, SHIM_LINE) { shim::meet_simdgroup("barrier", line); }
template <class V> V simd_sum(V v, SHIM_LINE) {
  return shim::reduce(v, [](V a, V b) { return V(a + b); }, "simd_sum", line);
}
template <class V> V simd_max(V v, SHIM_LINE) {
  return shim::reduce(v, [](V a, V b) { return a > b || b != b ? a : b; }, "simd_max", line);
}
template <class V> V simd_min(V v, SHIM_LINE) {
  return shim::reduce(v, [](V a, V b) { return a < b || b != b ? a : b; }, "simd_min", line);
}
template <class V> V simd_broadcast(V v, ushort from, SHIM_LINE) {
  return shim::exchange(v, from, "simd_broadcast", line);
}
template <class V> V simd_shuffle(V v, ushort from, SHIM_LINE) {
  return shim::exchange(v, from % shim::kLanes, "simd_shuffle", line);
}
template <class V> V simd_shuffle_xor(V v, ushort mask, SHIM_LINE) {
  return shim::exchange(v, shim::lane() ^ mask, "simd_shuffle_xor", line);
}
template <class V> V simd_shuffle_down(V v, ushort delta, SHIM_LINE) {
  uint from = shim::lane() + delta;
  V other = shim::exchange(v, from % shim::kLanes, "simd_shuffle_down", line);
  return from < shim::kLanes ? other : v;
}

template <class A, class B> A as_type(B b) {
  static_assert(sizeof(A) == sizeof(B));
  A a;
  __builtin_memcpy(&a, &b, sizeof a);
  return a;
}
// Metal's min and max return the other operand where one is NaN, as fmin and fmax do.
template <class T> T max(T a, T b) { return a > b || b != b ? a : b; }
template <class T> T min(T a, T b) { return a < b || b != b ? a : b; }
template <class T> T clamp(T x, T low, T high) { return min(max(x, low), high); }
#define SHIM_MATH(name, expression) inline float name(float x) { return expression; }
#define SHIM_MATHS \
  SHIM_MATH(exp, __builtin_expf(x)) SHIM_MATH(exp2, __builtin_exp2f(x)) \
  SHIM_MATH(log, __builtin_logf(x)) SHIM_MATH(sqrt, __builtin_sqrtf(x)) \
  SHIM_MATH(rsqrt, 1.0f / __builtin_sqrtf(x)) SHIM_MATH(sin, __builtin_sinf(x)) \
  SHIM_MATH(cos, __builtin_cosf(x)) SHIM_MATH(abs, __builtin_fabsf(x))
SHIM_MATHS
inline float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline bool isnan(float x) { return x != x; }
namespace precise { SHIM_MATHS }
namespace fast { SHIM_MATHS }
}  // namespace metal
using namespace metal;

#define device
#define constant
#define thread
// All threadgroup arrays lie in one section, which is filled with NaN before each threadgroup.
#define threadgroup static __attribute__((section("threadgroup_memory")))
// The linker makes these where the kernel has threadgroup arrays.
extern char __start_threadgroup_memory[] __attribute__((weak, visibility("hidden")));
extern char __stop_threadgroup_memory[] __attribute__((weak, visibility("hidden")));
#define in_threadgroup
