// A key or value of D elements shared by LANES lanes, PER of them in a row each.
template <typename T, int D, int LANES>
struct Share {
  static constant constexpr const int WHOLE = D;
  static constant constexpr const int PER = D / LANES;

  float x[PER];

  void load(const device T* from, uint own) {
#pragma unroll
    for (int j = 0; j < PER; j++) x[j] = float(from[own * PER + j]);
  }
  float dot(const thread Share& other) const {
    float sum = 0;
#pragma unroll
    for (int j = 0; j < PER; j++) sum = metal::fma(x[j], other.x[j], sum);
#pragma unroll
    for (int step = LANES / 2; step > 0; step /= 2) sum += simd_shuffle_xor(sum, ushort(step));
    return sum;
  }
};

// The sum over lanes that hold the same share.
template <int LANES> inline float across(float x) {
#pragma unroll
  for (int step = 16; step >= LANES; step /= 2) x += simd_shuffle_xor(x, ushort(step));
  return x;
}
