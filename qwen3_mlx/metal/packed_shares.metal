// A lane's share of a row as it is kept: packed in 4 or 8 BITS by MLX's affine mode, in groups of
// GROUP. `fetch` only sets out for it, so that more can be done before `open`.
template <typename T, int BITS, int GROUP, typename Part>
struct Kept {
  static constant constexpr const int PER = Part::PER;
  static constant constexpr const int EACH = 32 / BITS;  // numbers of a word
  static constant constexpr const int WORDS = PER > EACH ? PER / EACH : 1;
  static constant constexpr const int GROUPS = Part::WHOLE / GROUP;

  uint words[WORDS];
  T scale, bias;

  void fetch(const device uint* rows, const device T* scales, const device T* biases, uint row,
             uint own) {
    const device uint* from = rows + row * (Part::WHOLE / EACH) + own * PER / EACH;
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
    scale = scales[row * GROUPS + own * PER / GROUP];
    bias = biases[row * GROUPS + own * PER / GROUP];
  }
  void open(thread Part& part, uint own) const {
#pragma unroll
    for (int j = 0; j < PER; j++) {
      uint word = words[j / EACH] >> (PER < EACH ? own * PER % EACH * BITS : 0);
      uint q = word >> j % EACH * BITS & ((1u << BITS) - 1);
      part.x[j] = metal::fma(float(scale), small_float(q), float(bias));
    }
  }
};
