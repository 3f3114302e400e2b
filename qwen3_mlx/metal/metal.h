// A pointer's address space, apart from a declaration's, which CUDA writes otherwise.
#ifndef in_threadgroup
#define in_threadgroup threadgroup
#endif

inline float small_float(uint n) { return float(n); }
