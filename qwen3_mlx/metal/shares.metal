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

// A lane's share of a row as it is kept: numbers of T, or, of 4 or 8 BITS, packed by MLX's affine
// mode in groups of GROUP. `fetch` only sets out for it, so that more can be done before `open`.
template <typename T, int BITS, int GROUP, typename Part>
struct Kept {
  static constant constexpr const int PER = Part::PER;
  static constant constexpr const int EACH = 32 / BITS;  // numbers of a word
  static constant constexpr const int WORDS = PER > EACH ? PER / EACH : 1;
  static constant constexpr const int GROUPS = BITS < 16 ? Part::WHOLE / GROUP : 1;

  uint words[WORDS];
  T scale, bias;

  template <typename W>
  void fetch(const device W* rows, const device T* scales, const device T* biases, size_t row,
             uint own) {
    const device uint* from = (const device uint*)rows + row * (Part::WHOLE / EACH) +
                              own * PER / EACH;
    if (WORDS % 4 == 0) {
#pragma unroll
      for (int i = 0; i < WORDS; i += 4) {
        uint4 four = ((const device uint4*)from)[i / 4];
        words[i] = four.x;
        words[i + 1] = four.y;
        words[i + 2] = four.z;
        words[i + 3] = four.w;
      }
    } else {
#pragma unroll
      for (int i = 0; i < WORDS; i++) words[i] = from[i];
    }
    if (BITS < 16) {
      scale = scales[row * GROUPS + own * PER / GROUP];
      bias = biases[row * GROUPS + own * PER / GROUP];
    }
  }
  void open(thread Part& part, uint own) const {
#pragma unroll
    for (int j = 0; j < PER; j++) {
      uint word = words[j / EACH] >> (PER < EACH ? own * PER % EACH * BITS : 0);
      if (BITS >= 16) {
        part.x[j] = float(((const thread T*)&word)[j % EACH]);
      } else {
        uint q = word >> j % EACH * BITS & ((1u << BITS % 32) - 1);
        part.x[j] = metal::fma(float(scale), small_float(q), float(bias));
      }
    }
  }
};

// The sum over lanes that hold the same share.
template <int LANES> inline float across(float x) {
#pragma unroll
  for (int step = 16; step >= LANES; step /= 2) x += simd_shuffle_xor(x, ushort(step));
  return x;
}
