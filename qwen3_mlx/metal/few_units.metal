// Of a few rows: eight weights of a piece, two to a word, packed or as they are, in the order that
// takes the fewest instructions; and eight numbers of x in the same order.
template <typename T, int BITS>
inline uint4 unit_pairs(uint4 piece, int p, T scale, T bias) {
  if (BITS == 16) return piece;
  uint words[4] = {piece.x, piece.y, piece.z, piece.w};
  uint4 pairs;
  if (BITS == 4) {  // the words' halves: 0 and 4, 1 and 5, 2 and 6, 3 and 7
    uint w = words[p % 4], low = in_register(0x000f000fu);
    pairs.x = unpack_pair<T, BITS>(w & low, scale, bias);
    pairs.y = unpack_pair<T, BITS>(w >> 4 & low, scale, bias);
    pairs.z = unpack_pair<T, BITS>(w >> 8 & low, scale, bias);
    pairs.w = unpack_pair<T, BITS>(w >> 12 & low, scale, bias);
  } else {  // of two words: 0 and 2, 1 and 3; 4 and 6, 5 and 7
    uint low = words[2 * p % 4], high = words[(2 * p + 1) % 4];
    pairs.x = unpack_pair<T, BITS>(low & 0x00ff00ffu, scale, bias);
    pairs.y = unpack_pair<T, BITS>(low >> 8 & 0x00ff00ffu, scale, bias);
    pairs.z = unpack_pair<T, BITS>(high & 0x00ff00ffu, scale, bias);
    pairs.w = unpack_pair<T, BITS>(high >> 8 & 0x00ff00ffu, scale, bias);
  }
  return pairs;
}

inline uint lower_halves(uint a, uint b) { return (a & 0xffffu) | b << 16; }
inline uint upper_halves(uint a, uint b) { return a >> 16 | (b & 0xffff0000u); }

template <int BITS> inline uint4 paired_as_weights(uint4 unit) {
  uint4 pairs = unit;
  if (BITS == 4) {
    pairs.x = lower_halves(unit.x, unit.z);
    pairs.y = upper_halves(unit.x, unit.z);
    pairs.z = lower_halves(unit.y, unit.w);
    pairs.w = upper_halves(unit.y, unit.w);
  } else if (BITS == 8) {
    pairs.x = lower_halves(unit.x, unit.y);
    pairs.y = upper_halves(unit.x, unit.y);
    pairs.z = lower_halves(unit.z, unit.w);
    pairs.w = upper_halves(unit.z, unit.w);
  }
  return pairs;
}
