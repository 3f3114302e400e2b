// Matrix units, by the lane layout of NVIDIA's mma.m16n8k16 (PTX ISA): lane 4g + q holds of A the
// rows g and g + 8, of B the column g, both at k = 2q, 2q + 1 and 8 further; of the product the
// columns 2q and 2q + 1 of both rows. Spelled out with shuffles: right, not fast. Metal's own units
// lay their 8 x 8 tiles out otherwise, and for sorted experts MLX uses them already.
template <typename T> inline float pair_dot(uint a, uint b) {
  return metal::fma(float(as_type<T>(ushort(a))), float(as_type<T>(ushort(b))),
                    float(as_type<T>(ushort(a >> 16))) * float(as_type<T>(ushort(b >> 16))));
}
template <typename T>
inline void multiply_tile(ushort lane, thread float* sums, uint a0, uint a1, uint a2, uint a3,
                          uint b0, uint b1) {
  for (ushort q = 0; q < 4; q++) {
    ushort row = (lane & 28) + q, column = (lane & 3) * 8 + q;
    uint rows[4] = {simd_shuffle(a0, row), simd_shuffle(a2, row), simd_shuffle(a1, row),
                    simd_shuffle(a3, row)};
    for (int i = 0; i < 4; i++) {
      ushort from = column + 4 * (i % 2);
      uint low = simd_shuffle(b0, from), high = simd_shuffle(b1, from);
      sums[i] += pair_dot<T>(rows[i / 2 * 2], low) + pair_dot<T>(rows[i / 2 * 2 + 1], high);
    }
  }
}
template <typename T, int BITS> inline uint unpack_pair(uint q, T scale, T bias) {
  T a = T(metal::fma(float(q & 0xffffu), float(scale), float(bias)));
  T b = T(metal::fma(float(q >> 16), float(scale), float(bias)));
  return uint(as_type<ushort>(a)) | uint(as_type<ushort>(b)) << 16;
}
template <typename T> inline uint times_pair(uint a, uint b) {
  T low = T(float(as_type<T>(ushort(a))) * float(as_type<T>(ushort(b))));
  T high = T(float(as_type<T>(ushort(a >> 16))) * float(as_type<T>(ushort(b >> 16))));
  return uint(as_type<ushort>(low)) | uint(as_type<ushort>(high)) << 16;
}
inline uint in_register(uint c) { return c; }
inline void copy_unit(in_threadgroup uint4* to, const device uint4* from) { *to = *from; }
inline void copies_done() {}
