// Tiles of packed weights for matrix units: units of 8 weights, unpacked in pairs, beside x in
// threadgroup memory.

// Where the unit p of a row's quarter stands: moved about so that lanes which write or read
// together do so in different banks.
template <int UNITS, int ROWS>
struct Unit {
  static int place(int row, int quarter, int p) {
    return p * ROWS * 4 + ((row * 4 + quarter) ^ (p * (8 / UNITS)));
  }
};

// Two numbers in one word, the first below.
template <typename T> inline uint two(float a, float b) {
  return uint(as_type<ushort>(T(a))) | uint(as_type<ushort>(T(b))) << 16;
}

// Eight weights of 4 bits (a word) or 8 (two), in order, two to a word.
template <typename T, int BITS>
inline void unpack_unit(const thread uint* words, T scale, T bias, thread uint* pairs) {
  if (BITS == 4) {
    uint w = words[0];
    uint low = (w & 0xffffu) | (w << 12 & 0xffff0000u);  // of each pair, the second 12 further up
    uint high = w >> 16 | (w >> 4 & 0xffff0000u);
    pairs[0] = unpack_pair<T, BITS>(low & 0x000f000fu, scale, bias);
    pairs[1] = unpack_pair<T, BITS>(low >> 8 & 0x000f000fu, scale, bias);
    pairs[2] = unpack_pair<T, BITS>(high & 0x000f000fu, scale, bias);
    pairs[3] = unpack_pair<T, BITS>(high >> 8 & 0x000f000fu, scale, bias);
  } else {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      uint w = words[i / 2] >> 16 * (i % 2);
      pairs[i] = unpack_pair<T, BITS>((w & 0xffu) | (w << 8 & 0xff0000u), scale, bias);
    }
  }
}
