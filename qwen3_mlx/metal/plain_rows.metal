// One row's share of a piece, of a row that is not quantized; scales and biases are not read.
template <typename T, int BITS, int GROUP>
struct Row {
  static constant constexpr const int SIZE = Piece<BITS>::SIZE;

  float weights[SIZE];

  template <typename W>
  void load(const device W* from, const device T*, const device T*, uint piece) {
#pragma unroll
    for (int i = 0; i < SIZE; i += 4) load4((const device T*)from + piece * SIZE + i, weights + i);
  }
  float dot(const thread float* x, float) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < SIZE; i++) sum = metal::fma(weights[i], x[i], sum);
    return sum;
  }
};
