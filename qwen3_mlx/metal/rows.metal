// What the kernels share: packed rows against a vector in threadgroup memory, 16 bytes a lane.
//
// A piece holds 128 / BITS weights of one row: 32 of 4 bits, 16 of 8, or, of an unquantized row,
// 8 halves or 4 floats. Packed weights are used where they stand in their word: w & 0xf0 is 16
// times the weight, so x is divided by 16 beforehand, exactly, and nothing is shifted.
// Rows and activations must start at multiples of 16 bytes.

// Sizes of a piece: in weights, and in float4s of x. Where the float4 j of a piece stands: moved
// about so that lanes which read it together read from different banks.
template <int BITS>
struct Piece {
  static constant constexpr const int SIZE = 128 / BITS;
  static constant constexpr const int QUADS = SIZE / 4;

  static int place(int piece, int j) { return piece * QUADS + (j ^ (piece / (8 / QUADS) % QUADS)); }
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
    float second = BITS == 4 ? 1.0f / 16 : BITS == 8 ? 1.0f / 256 : 1.0f;
    float third = BITS == 4 ? 1.0f / 256 : 1.0f;
    float fourth = BITS == 4 ? 1.0f / 4096 : BITS == 8 ? 1.0f / 256 : 1.0f;
    int piece = i / Piece<BITS>::SIZE, j = i / 4 % Piece<BITS>::QUADS;
    if (i < n) {
      staged[Piece<BITS>::place(piece, j)] =
          float4{v[0], v[1] * second, v[2] * third, v[3] * fourth};
      if (j == 0) sums[piece] = sum;
    }
  }
  return squares;
}

// x of one piece.
template <int BITS>
inline void read_piece(const in_threadgroup float4* staged, int piece, thread float* x) {
#pragma unroll
  for (int j = 0; j < Piece<BITS>::QUADS; j++) {
    float4 four = staged[Piece<BITS>::place(piece, j)];
    x[4 * j] = four.x;
    x[4 * j + 1] = four.y;
    x[4 * j + 2] = four.z;
    x[4 * j + 3] = four.w;
  }
}

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
  void load(const device W* weights, const device T* scales, const device T* biases, size_t piece) {
    words = ((const device uint4*)weights)[piece];
    size_t group = piece * Piece<BITS>::SIZE / GROUP;
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

// The same of a row that is not quantized; scales and biases are not read.
template <typename T, int SIZE>
struct PlainRow {
  float weights[SIZE];

  template <typename W>
  void load(const device W* from, const device T*, const device T*, size_t piece) {
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

// Which of the two a matrix's rows are. Not by derivation: Metal before 4.0 has no derived classes.
template <typename T, int BITS, int GROUP> struct RowOf { typedef Row<T, BITS, GROUP> type; };
template <typename T> struct RowOf<T, 16, 0> { typedef PlainRow<T, 8> type; };
template <typename T> struct RowOf<T, 32, 0> { typedef PlainRow<T, 4> type; };
