inline float dot_nibbles(uint w, const thread float* x) {
  uint high = w >> 16;
  float sum = x[0] * small_float(w & 0xfu);
  sum = metal::fma(x[1], small_float(w & 0xf0u), sum);
  sum = metal::fma(x[2], small_float(w & 0xf00u), sum);
  sum = metal::fma(x[3], small_float(w & 0xf000u), sum);
  sum = metal::fma(x[4], small_float(high & 0xfu), sum);
  sum = metal::fma(x[5], small_float(high & 0xf0u), sum);
  sum = metal::fma(x[6], small_float(high & 0xf00u), sum);
  return metal::fma(x[7], small_float(high & 0xf000u), sum);
}

inline float dot_bytes(uint w, const thread float* x) {
  uint high = w >> 16;
  float sum = x[0] * small_float(w & 0xffu);
  sum = metal::fma(x[1], small_float(w & 0xff00u), sum);
  sum = metal::fma(x[2], small_float(high & 0xffu), sum);
  return metal::fma(x[3], small_float(high & 0xff00u), sum);
}

// One row's share of a piece: 16 bytes of weights, to be multiplied by their x.
template <typename T, int BITS, int GROUP>
struct Row {
  uint4 words;
  float scale, bias;

  template <typename W>
  void load(const device W* weights, const device T* scales, const device T* biases, uint piece) {
    words = ((const device uint4*)weights)[piece];
    uint group = piece / uint(GROUP / Piece<BITS>::SIZE);
    scale = float(scales[group]);
    bias = float(biases[group]);
  }
  float dot(const thread float* x, float sum) {
    float total;
    if (BITS == 4) {
      total = (dot_nibbles(words.x, x) + dot_nibbles(words.y, x + 8)) +
              (dot_nibbles(words.z, x + 16) + dot_nibbles(words.w, x + 24));
    } else {
      total = (dot_bytes(words.x, x) + dot_bytes(words.y, x + 4)) +
              (dot_bytes(words.z, x + 8) + dot_bytes(words.w, x + 12));
    }
    return metal::fma(scale, total, bias * sum);
  }
};
