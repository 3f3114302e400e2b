// Which experts each token goes to, and with what weights. One simdgroup a token.
uint lane = thread_index_in_simdgroup;
uint token = threadgroup_position_in_grid.x;
float weight;
uint index;
float logit[(E + 31) / 32];
#pragma unroll
for (int j = 0; j < (E + 31) / 32; j++) {
  uint i = lane + 32 * j;
  logit[j] = float(logits[token * E + (i < E ? i : 0)]);
}
choose<E, TOPK, NORMALISE>(logit, lane, weight, index);
if (lane < TOPK) {
  experts[token * TOPK + lane] = index;
  weights[token * TOPK + lane] = weight;
}
