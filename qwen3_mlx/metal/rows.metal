// What the matrix kernels share: packed rows against a vector, 16 bytes a lane.
//
// A piece holds 128 / BITS weights of one row: 32 of 4 bits, 16 of 8, or, of an unquantized row,
// 8 halves or 4 floats. Packed weights are used where they stand in their word: w & 0xf0 is 16
// times the weight, so x is divided by 16 beforehand, exactly, and nothing is shifted.
// Rows and activations must start at multiples of 16 bytes.

// The size of a piece in weights, and what every fourth of its x, from the i-th on, is scaled by.
template <int BITS>
struct Piece {
  static constant constexpr const int SIZE = 128 / BITS;

  static float scale(int i) {
    return BITS == 4 ? 1.0f / float(1 << 4 * i) : BITS == 8 && i % 2 ? 1.0f / 256 : 1.0f;
  }
};
