// Under this header MLX's CUDA backend compiles the kernels' Metal text as it stands.
typedef unsigned int uint;
typedef unsigned short ushort;

template <typename T, int N> struct alignas(sizeof(T) * N) vec;
template <typename T> struct alignas(sizeof(T) * 4) vec<T, 4> { T x, y, z, w; };

template <typename A, typename B> inline A as_type(B b) { return __builtin_bit_cast(A, b); }

// Exact for n < 2^23; a conversion instruction would run at a quarter of this rate.
inline float small_float(uint n) { return __uint_as_float(n | 0x4b000000u) - 8388608.0f; }

#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#endif

constexpr unsigned kAllLanes = 0xffffffffu;
inline float simd_sum(float v) {
#pragma unroll
  for (int step = 16; step; step >>= 1) v += __shfl_xor_sync(kAllLanes, v, step);
  return v;
}
inline float simd_max(float v) {
#pragma unroll
  for (int step = 16; step; step >>= 1) v = fmaxf(v, __shfl_xor_sync(kAllLanes, v, step));
  return v;
}
inline uint simd_max(uint v) { return __reduce_max_sync(kAllLanes, v); }
inline uint simd_min(uint v) { return __reduce_min_sync(kAllLanes, v); }
template <typename V> inline V simd_shuffle_xor(V v, ushort mask) {
  return __shfl_xor_sync(kAllLanes, v, mask);
}
template <typename V> inline V simd_shuffle(V v, ushort lane) {
  return __shfl_sync(kAllLanes, v, lane);
}
template <typename V> inline V simd_broadcast(V v, ushort lane) {
  return __shfl_sync(kAllLanes, v, lane);
}

enum class mem_flags { mem_none, mem_device, mem_threadgroup };
inline void threadgroup_barrier(mem_flags) { __syncthreads(); }

namespace metal {
inline float exp(float x) { return expf(x); }
inline float exp2(float x) { return exp2f(x); }
inline float fma(float a, float b, float c) { return fmaf(a, b, c); }
inline float rsqrt(float x) { return rsqrtf(x); }
inline float max(float a, float b) { return fmaxf(a, b); }
namespace precise {
inline float cos(float x) { return cosf(x); }
inline float sin(float x) { return sinf(x); }
inline float rsqrt(float x) { return rsqrtf(x); }
}
}

// Matrix units (tiles.metal says what lies where), weights two at a time, and copies that don't wait.
template <typename T>
inline void multiply_tile(ushort, float* c, uint a0, uint a1, uint a2, uint a3, uint b0, uint b1);
#define MULTIPLY_TILE(T, NAME)                                                                  \
  template <>                                                                                   \
  inline void multiply_tile<T>(ushort, float* c, uint a0, uint a1, uint a2, uint a3, uint b0,   \
                               uint b1) {                                                       \
    asm("mma.sync.aligned.m16n8k16.row.col.f32." NAME "." NAME ".f32 "                          \
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"                                 \
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                        \
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));                                \
  }
MULTIPLY_TILE(__nv_bfloat16, "bf16")
MULTIPLY_TILE(__half, "f16")

// 128 + q is a bfloat16 with q as its last bits for q < 128, 1024 + q a half for q < 1024.
template <typename T, int BITS> struct Unpack {
  static uint pair(uint q, T scale, T bias) {
    float a = fmaf(small_float(q & 0xffffu), float(scale), float(bias));
    float b = fmaf(small_float(q >> 16), float(scale), float(bias));
    __nv_bfloat162 v = __floats2bfloat162_rn(a, b);
    return *(uint*)&v;
  }
};
#define UNPACK_TWO(TWO, MAGIC)                                       \
  uint base = MAGIC, word = q | base;                                \
  TWO v = __hsub2(*(TWO*)&word, *(TWO*)&base);                       \
  v = __hfma2(v, TWO(scale, scale), TWO(bias, bias));                \
  return *(uint*)&v;
template <> struct Unpack<__nv_bfloat16, 4> {
  static uint pair(uint q, __nv_bfloat16 scale, __nv_bfloat16 bias) {
    UNPACK_TWO(__nv_bfloat162, 0x43004300u)
  }
};
template <int BITS> struct Unpack<__half, BITS> {
  static uint pair(uint q, __half scale, __half bias) { UNPACK_TWO(__half2, 0x64006400u) }
};
template <typename T, int BITS> inline uint unpack_pair(uint q, T scale, T bias) {
  return Unpack<T, BITS>::pair(q, scale, bias);
}
// A constant that stays in a register: an instruction has room for one constant alone, and the
// compiler loads a second anew each time. That threadgroups are 1 deep it can't know.
inline uint in_register(uint c) { return c + (blockDim.z - 1); }

template <typename T> inline uint times_pair(uint a, uint b);
#define TIMES_PAIR(T, TWO)                                 \
  template <> inline uint times_pair<T>(uint a, uint b) { \
    TWO v = __hmul2(*(TWO*)&a, *(TWO*)&b);                 \
    return *(uint*)&v;                                     \
  }
TIMES_PAIR(__nv_bfloat16, __nv_bfloat162)
TIMES_PAIR(__half, __half2)

inline void copy_unit(uint4* to, const uint4* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;"
               ::"r"(uint(__cvta_generic_to_shared(to))), "l"(from) : "memory");
}
inline void copies_done() { asm volatile("cp.async.wait_all;" ::: "memory"); }

#define device
#define constant
#define thread
#define threadgroup __shared__
#define in_threadgroup
#define thread_index_in_simdgroup (threadIdx.x & 31u)
#define simdgroup_index_in_threadgroup (threadIdx.x >> 5)
#define thread_position_in_threadgroup threadIdx
#define threadgroup_position_in_grid blockIdx
#define threadgroups_per_grid gridDim
