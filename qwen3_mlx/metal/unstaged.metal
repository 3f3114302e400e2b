// x of one piece, from where it lies: in float32, times the norm's weight if there is one, and scaled
// for packed weights. Adds to Σ x²; returns the sum that packed weights' biases multiply.
template <typename T, int BITS, bool NORM>
inline float own_piece(const device T* x, const device T* norm, uint piece, thread float* v,
                       thread float& squares) {
  uint at = piece * Piece<BITS>::SIZE;
  float sum = 0;
#pragma unroll
  for (int j = 0; j < Piece<BITS>::SIZE; j += 4) {
    thread float* four = v + j;
    load4(x + at + j, four);
    if (NORM) {
      float gain[4];
      load4(norm + at + j, gain);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        squares = metal::fma(four[i], four[i], squares);
        four[i] *= gain[i];
      }
    }
    sum += (four[0] + four[1]) + (four[2] + four[3]);
#pragma unroll
    for (int i = 1; i < 4; i++) four[i] *= Piece<BITS>::scale(i);
  }
  return sum;
}
