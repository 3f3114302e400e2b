// Which experts each token goes to, and with what weights. One simdgroup a token.
uint lane = thread_index_in_simdgroup;
uint token = threadgroup_position_in_grid.x;
float weight;
uint index;
choose<T, E, TOPK, NORMALISE>(logits + token * E, lane, weight, index);
if (lane < TOPK) {
  experts[token * TOPK + lane] = index;
  weights[token * TOPK + lane] = weight;
}
