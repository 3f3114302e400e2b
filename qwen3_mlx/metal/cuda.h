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

#define device
#define constant
#define thread
#define threadgroup __shared__
#define in_threadgroup
#define thread_index_in_simdgroup (threadIdx.x & 31u)
#define simdgroup_index_in_threadgroup (threadIdx.x >> 5)
#define thread_position_in_threadgroup threadIdx
#define threadgroup_position_in_grid blockIdx
