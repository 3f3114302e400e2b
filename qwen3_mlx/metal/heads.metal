// A lane's share of one attention head of D elements, D a power of two: PER of them in a row. The
// partner of an element in the rotation is D / 2 further on, in lane ^ APART.
template <typename T, int D>
struct Head {
  static constant constexpr const int PER = D > 32 ? D / 32 : 1;
  static constant constexpr const int APART = D / 2 / PER;

  float x[PER];

  void load(const device T* from, uint lane) {
    uint at = lane * PER;
    if (PER % 4 == 0) {
#pragma unroll
      for (int j = 0; j < PER; j += 4) load4(from + at + j, x + j);
    } else {
#pragma unroll
      for (int j = 0; j < PER; j++) x[j] = at < uint(D) ? float(from[at + j]) : 0;
    }
  }
  // RMSNorm, then the rotation by `turns`: the cosines of the D / 2 angles, then their sines.
  void norm_and_turn(const device T* gain, float eps, const device float* turns, uint lane) {
    float squares = 0;
#pragma unroll
    for (int j = 0; j < PER; j++) squares += x[j] * x[j];
    float rstd = metal::precise::rsqrt(simd_sum(squares) / D + eps);
    uint at = lane * PER < uint(D) ? lane * PER : 0;
    bool second = at >= uint(D) / 2;
#pragma unroll
    for (int j = 0; j < PER; j++) {
      float own = x[j] * rstd * float(gain[at + j]);
      float other = simd_shuffle_xor(own, APART);
      float c = turns[(at + j) % (D / 2)];
      float s = turns[D / 2 + (at + j) % (D / 2)];
      x[j] = lane * PER < uint(D) ? own * c + (second ? other : -other) * s : 0;
    }
  }
};
