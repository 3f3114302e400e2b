// The TOPK largest of E logits of one token, and their softmax over all E, divided by their sum if
// NORMALISE. One simdgroup; lane l holds logits l, l + 32, … and is left with the l-th choice.
// Ties: the lowest index wins. The caller reads the logits: MLX passes few of them as `constant`.
template <int E, int TOPK, bool NORMALISE>
inline void choose(thread float* values, uint lane, thread float& chosen,
                   thread uint& chosen_index) {
  constexpr int HELD = (E + 31) / 32;

  uint keys[HELD];  // ordered as the logits are, 0 where there is none or it is taken
  float largest = -INFINITY;
#pragma unroll
  for (int j = 0; j < HELD; j++) {
    uint i = lane + 32 * j;
    float value = i < E ? values[j] + 0.0f : -INFINITY;  // + 0: -0 equals 0
    uint bits = as_type<uint>(value);
    uint key = bits >> 31 ? ~bits : bits | 0x80000000u;
    values[j] = value;
    keys[j] = i < E ? (value == value ? key : 0xffffffffu) : 0u;
    largest = metal::max(largest, value);
  }
  largest = simd_max(largest);
  float total = 0;
#pragma unroll
  for (int j = 0; j < HELD; j++) total += metal::exp(values[j] - largest);
  total = simd_sum(total);

  chosen = 0;
  chosen_index = 0;
  for (int n = 0; n < TOPK; n++) {
    uint best = 0;
#pragma unroll
    for (int j = 0; j < HELD; j++) best = keys[j] > best ? keys[j] : best;
    best = simd_max(best);
    uint index = 0xffffffffu;
#pragma unroll
    for (int j = HELD - 1; j >= 0; j--) index = keys[j] == best ? lane + 32 * j : index;
    index = simd_min(index);
#pragma unroll
    for (int j = 0; j < HELD; j++) keys[j] = lane + 32 * j == index ? 0u : keys[j];
    float logit = as_type<float>(best >> 31 ? best & 0x7fffffffu : ~best);
    float value = metal::exp(logit - largest) / total;
    if (int(lane) == n) {
      chosen = value;
      chosen_index = index;
    }
  }
  if (NORMALISE) chosen /= simd_sum(chosen);
}
