// Merges the partial softmaxes of each head: weighted sums, the largest score, the total.
uint lane = thread_index_in_simdgroup;
int parts = partial_shape[1];
uint head = threadgroup_position_in_grid.x;
const device float* from = partial + head * parts * (D + 2);
float top = from[D];
for (int i = 1; i < parts; i++) top = metal::max(top, from[i * (D + 2) + D]);
for (uint d = lane; d < D; d += 32) {
  float sum = 0, weight = 0;
  for (int i = 0; i < parts; i++) {
    const device float* one = from + i * (D + 2);
    float share = one[D] == top ? 1.0f : metal::exp2(one[D] - top);
    sum += share * one[d];
    weight += share * one[D + 1];
  }
  out[head * D + d] = T(sum / weight);
}
