// x in threadgroup memory, for CUDA: there all of a threadgroup's simdgroups read it from one place.

// The float4s of x of a piece, and where the j-th stands: moved about so that lanes which read it
// together read from different banks.
template <int BITS>
struct Quads {
  static constant constexpr const int COUNT = Piece<BITS>::SIZE / 4;

  static int place(int piece, int j) { return piece * COUNT + (j ^ (piece / (8 / COUNT) % COUNT)); }
};

// A piece there is: lanes behind the last read that one again, and don't use it.
inline int within(int piece, int pieces) { return piece < pieces ? piece : pieces - 1; }

// Puts x[0, n) into threadgroup memory: in float32, times the norm's weight if there is one, scaled
// for packed weights, and with the sum of each piece. Returns this thread's part of Σ x².
template <typename T, int BITS, bool NORM>
inline float stage(const device T* x, const device T* norm, in_threadgroup float4* staged,
                   in_threadgroup float* sums, int n, uint thread_id, uint threads) {
  float squares = 0;
  for (int base = 0; base < n; base += int(threads) * 4) {
    int i = base + int(thread_id) * 4;
    float v[4] = {0, 0, 0, 0};
    if (i < n) {
      load4(x + i, v);
      if (NORM) {
        float gain[4];
        load4(norm + i, gain);
#pragma unroll
        for (int j = 0; j < 4; j++) {
          squares = metal::fma(v[j], v[j], squares);
          v[j] *= gain[j];
        }
      }
    }
    float sum = (v[0] + v[1]) + (v[2] + v[3]);
    if (BITS < 16) {
      sum += simd_shuffle_xor(sum, 1);
      sum += simd_shuffle_xor(sum, 2);
      if (BITS == 4) sum += simd_shuffle_xor(sum, 4);
    }
    int piece = i / Piece<BITS>::SIZE, j = i / 4 % Quads<BITS>::COUNT;
    if (i < n) {
      staged[Quads<BITS>::place(piece, j)] =
          float4{v[0], v[1] * Piece<BITS>::scale(1), v[2] * Piece<BITS>::scale(2),
                 v[3] * Piece<BITS>::scale(3)};
      if (j == 0) sums[piece] = sum;
    }
  }
  return squares;
}

// x of one piece.
template <int BITS>
inline void read_piece(const in_threadgroup float4* staged, int piece, thread float* x) {
#pragma unroll
  for (int j = 0; j < Quads<BITS>::COUNT; j++) {
    float4 four = staged[Quads<BITS>::place(piece, j)];
    x[4 * j] = four.x;
    x[4 * j + 1] = four.y;
    x[4 * j + 2] = four.z;
    x[4 * j + 3] = four.w;
  }
}
