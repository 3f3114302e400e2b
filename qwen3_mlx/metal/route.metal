// Which experts each token goes to, and with what weights. One simdgroup a token.
//
// With an output `groups`, all tokens are in one threadgroup, which lists the experts that any of them
// chose, their number before them, and in `members` at which of its slots each token has each, or -1.
uint lane = thread_index_in_simdgroup;
#ifdef HAS_groups
uint token = simdgroup_index_in_threadgroup;
#else
uint token = threadgroup_position_in_grid.x;
#endif
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
#ifdef HAS_groups
threadgroup uint all[MOST * TOPK];
threadgroup int leads[MOST * TOPK];
int tokens = logits_shape[0];
int pairs = tokens * TOPK;
if (lane < TOPK) all[token * TOPK + lane] = index;
threadgroup_barrier(mem_flags::mem_threadgroup);
int pair = int(token) * 32 + int(lane);  // TOPK is 32 at most, so every pair has a thread
if (pair < pairs) {
  int lead = 1;
  for (int i = 0; i < pair; i++) lead = all[i] == all[pair] ? 0 : lead;
  leads[pair] = lead;
}
threadgroup_barrier(mem_flags::mem_threadgroup);
if (pair < pairs) {
  int place = 0;
  for (int i = 0; i < pair; i++) place += leads[i];
  if (leads[pair]) {
    groups[1 + place] = int(all[pair]);
    for (int t = 0; t < tokens; t++) {
      int slot = -1;
      for (int s = 0; s < TOPK; s++) slot = all[t * TOPK + s] == all[pair] ? s : slot;
      members[place * tokens + t] = slot;
    }
  }
  if (pair == pairs - 1) groups[0] = place + leads[pair];
}
#endif
