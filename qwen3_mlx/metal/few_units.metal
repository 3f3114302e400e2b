// Of a few rows: two numbers of x times the norm's weight, adding to Σ x², and eight weights of a
// piece, two to a word, packed or as they are.
template <typename T> inline uint gained(uint x, uint gain, thread float& squares) {
  float a = float(as_type<T>(ushort(x))), b = float(as_type<T>(ushort(x >> 16)));
  squares = metal::fma(a, a, metal::fma(b, b, squares));
  return two<T>(a * float(as_type<T>(ushort(gain))), b * float(as_type<T>(ushort(gain >> 16))));
}

template <typename T, int BITS>
inline void unit_pairs(uint4 piece, int p, T scale, T bias, thread uint* pairs) {
  uint words[4] = {piece.x, piece.y, piece.z, piece.w};
  if (BITS == 16) {
#pragma unroll
    for (int i = 0; i < 4; i++) pairs[i] = words[i];
  } else {
    uint own[2] = {words[p * BITS / 4 % 4], words[(p * BITS / 4 + 1) % 4]};
    unpack_unit<T, BITS>(own, scale, bias, pairs);
  }
}
