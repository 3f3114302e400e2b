// Metal's vocabulary for clang, for its rules and not for its values (msl_cpu.h has those): in C++
// for OpenCL without a generic address space, whose __global, __local, __constant and __private are
// Metal's device, threadgroup, constant and thread; and in C++14, where templates stay templates and
// address spaces vanish. A builtin that a kernel begins to use goes in here, with Metal's types.
#ifdef __OPENCL_CPP_VERSION__
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
#define device __global
#define threadgroup __local
#define constant __constant
#define thread __private
// What Metal doesn't have.
#define double no_double_in_metal
#define printf no_printf_in_metal
#define goto no_goto_in_metal
#define virtual no_virtual_in_metal
#define new no_new_in_metal
#else
#define device
#define threadgroup
#define constant
#define thread
typedef unsigned int uint;
typedef unsigned short ushort;
typedef unsigned char uchar;
typedef decltype(sizeof(0)) size_t;
typedef _Float16 half;
typedef float float2 __attribute__((ext_vector_type(2)));
typedef float float4 __attribute__((ext_vector_type(4)));
typedef uint uint2 __attribute__((ext_vector_type(2)));
typedef uint uint3 __attribute__((ext_vector_type(3)));
typedef uint uint4 __attribute__((ext_vector_type(4)));
#define INFINITY __builtin_huge_valf()
#endif
typedef __bf16 bfloat;
typedef bfloat bfloat16_t;
typedef half float16_t;
typedef uint uint32_t;
typedef int int32_t;

// Where a thread stands. The registers benchmark needs values that no optimiser foresees.
#ifdef __AMDGCN__
inline uint msl_thread() { return __builtin_amdgcn_workitem_id_x(); }
inline uint3 msl_group() {
  return uint3{__builtin_amdgcn_workgroup_id_x(), __builtin_amdgcn_workgroup_id_y(),
               __builtin_amdgcn_workgroup_id_z()};
}
inline uint3 msl_groups() {
  const constant uint* packet = (const constant uint*)__builtin_amdgcn_dispatch_ptr();
  return uint3{packet[3], packet[4], packet[5]};
}
#else
inline uint msl_thread() { return 0; }
inline uint3 msl_group() { return uint3{0, 0, 0}; }
inline uint3 msl_groups() { return uint3{1, 1, 1}; }
#endif

template <typename A, typename B> inline A as_type(B b) {
  static_assert(sizeof(A) == sizeof(B), "as_type: another size");
  return __builtin_bit_cast(A, b);
}

template <typename T, int N> struct msl_vec;
template <typename T> struct msl_vec<T, 2> { typedef T type __attribute__((ext_vector_type(2))); };
template <typename T> struct msl_vec<T, 4> { typedef T type __attribute__((ext_vector_type(4))); };

// Types that Metal's simd functions take: neither bool nor 64 bits, and no bfloat.
template <typename T> struct msl_simd { enum { takes = 0 }; };
template <> struct msl_simd<float> { enum { takes = 1 }; };
template <> struct msl_simd<half> { enum { takes = 1 }; };
template <> struct msl_simd<int> { enum { takes = 1 }; };
template <> struct msl_simd<uint> { enum { takes = 1 }; };
template <> struct msl_simd<short> { enum { takes = 1 }; };
template <> struct msl_simd<ushort> { enum { takes = 1 }; };

namespace metal {
template <typename T, int N> using vec = typename msl_vec<T, N>::type;

template <typename T> inline T simd_shuffle(T v, ushort lane) {
  static_assert(msl_simd<T>::takes, "simd functions don't take this type");
#ifdef __AMDGCN__
  union { T value; int bits; } in, out;
  in.bits = 0;
  in.value = v;
  out.bits = __builtin_amdgcn_ds_bpermute(int(lane) * 4, in.bits);
  return out.value;
#else
  return lane ? v : T(0);
#endif
}
template <typename T> inline T simd_broadcast(T v, ushort lane) { return simd_shuffle(v, lane); }
template <typename T> inline T simd_shuffle_xor(T v, ushort mask) {
  return simd_shuffle(v, ushort((msl_thread() & 31u) ^ mask));
}
template <typename T> inline T simd_shuffle_down(T v, ushort delta) {
  return simd_shuffle(v, ushort((msl_thread() & 31u) + delta));
}
#define MSL_REDUCE(NAME, JOINED)                                         \
  template <typename T> inline T NAME(T v) {                             \
    _Pragma("unroll") for (ushort step = 16; step; step >>= 1) {         \
      T other = simd_shuffle_xor(v, step);                               \
      v = JOINED;                                                        \
    }                                                                    \
    return v;                                                            \
  }
MSL_REDUCE(simd_sum, T(v + other))
MSL_REDUCE(simd_max, other > v ? other : v)
MSL_REDUCE(simd_min, other < v ? other : v)

enum class mem_flags { mem_none, mem_device, mem_threadgroup, mem_texture };
inline void threadgroup_barrier(mem_flags) {
#ifdef __AMDGCN__
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
  __builtin_amdgcn_s_barrier();
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");
#endif
}

// A call that would have to convert its argument is an error: Metal has an overload for half.
#define MSL_MATH(NAME, VALUE)                   \
  inline float NAME(float x) { return VALUE; }  \
  inline half NAME(half) = delete;
MSL_MATH(exp, __builtin_exp2f(x * 1.44269504f))
MSL_MATH(exp2, __builtin_exp2f(x))
MSL_MATH(rsqrt, 1.0f / __builtin_sqrtf(x))
inline float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
#define MSL_EITHER(TYPE)                                           \
  inline TYPE max(TYPE a, TYPE b) { return a > b ? a : b; }        \
  inline TYPE min(TYPE a, TYPE b) { return a < b ? a : b; }
MSL_EITHER(float)
MSL_EITHER(int)
MSL_EITHER(uint)
namespace precise {
MSL_MATH(rsqrt, 1.0f / __builtin_sqrtf(x))
// Neither value matters here; Metal's reduce their argument first.
MSL_MATH(sin, x * __builtin_fmaf(x, x, 1.0f))
MSL_MATH(cos, __builtin_fmaf(x, x, 1.0f))
}
}
// As MLX's own header does before every kernel.
using namespace metal;
