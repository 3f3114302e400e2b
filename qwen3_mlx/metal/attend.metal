// One new token attends to the past and to itself: q-norm, k-norm, rotation, softmax(q kᵀ) v.
//
// The past is in two places: `keys` and `values` hold counts[0] tokens, `tail` the counts[1] after
// them. A kernel can't write into its inputs, so the new token is appended to a copy of the tail,
// which is short. One query head (and one of SPLITS parts of the past) a threadgroup; its
// simdgroups take AHEAD keys at a time, and their partial softmaxes are merged at the end.
typedef Head<T, D> Vector;
constexpr int PER = Vector::PER;
constexpr int GROUP = H / KV;
uint lane = thread_index_in_simdgroup;
uint simd = simdgroup_index_in_threadgroup;
uint head = threadgroup_position_in_grid.x;
uint part = threadgroup_position_in_grid.y;
uint kv = head / GROUP;
int held = counts[0];
int recent = counts[1];
float position = float(held + recent);

const device T* own_keys = keys + size_t(kv) * keys_shape[2] * D;
const device T* own_values = values + size_t(kv) * keys_shape[2] * D;
int share = (held + SPLITS - 1) / SPLITS;
int first_end = (int(part) + 1) * share < held ? (int(part) + 1) * share : held;

// The first keys and values are under way while the query is made ready.
Vector k[AHEAD], v[AHEAD];
#pragma unroll
for (int j = 0; j < AHEAD; j++) {
  int s = int(part) * share + int(simd) * AHEAD + j;
  size_t at = size_t(s < held ? s : held > 0 ? held - 1 : 0) * D;
  k[j].load(own_keys + at, lane);
  v[j].load(own_values + at, lane);
}
bool fetched = true;

Vector query, key, value;
query.load(qkv + head * D, lane);
query.norm_and_turn(q_norm, as_type<float>(EPS), table, position, lane);
key.load(qkv + (H + kv) * D, lane);
key.norm_and_turn(k_norm, as_type<float>(EPS), table, position, lane);
value.load(qkv + (H + KV + kv) * D, lane);

const device T* old_keys = tail + size_t(kv) * TAIL * D;
const device T* old_values = tail + size_t(KV + kv) * TAIL * D;
if (part == 0) {  // the query heads of a group share the copying
  device T* new_keys = new_tail + size_t(kv) * TAIL * D;
  device T* new_values = new_tail + size_t(KV + kv) * TAIL * D;
  uint first = (head % GROUP) * SIMDS + simd;
  for (uint i = first * 32 + lane; i < uint(recent * D / 4); i += GROUP * SIMDS * 32) {
    ((device vec<T, 4>*)new_keys)[i] = ((const device vec<T, 4>*)old_keys)[i];
    ((device vec<T, 4>*)new_values)[i] = ((const device vec<T, 4>*)old_values)[i];
  }
  if (first == 0) {
    key.store(new_keys + recent * D, lane);
    value.store(new_values + recent * D, lane);
  }
}

float scale = 1.44269504f * metal::precise::rsqrt(float(D));  // of powers of 2, not of e
float best = -INFINITY;
float total = 0;
float mixed[PER];
#pragma unroll
for (int j = 0; j < PER; j++) mixed[j] = 0;

for (int source = 0; source < 2; source++) {
  if (source == 1 && part > 0) continue;
  const device T* from_keys = source ? old_keys : own_keys;
  const device T* from_values = source ? old_values : own_values;
  int begin = source ? 0 : int(part) * share;
  int end = source ? recent : first_end;
  for (int s = begin + int(simd) * AHEAD; s < end; s += SIMDS * AHEAD) {
#pragma unroll
    for (int j = 0; j < AHEAD && !fetched; j++) {
      size_t at = size_t(s + j < end ? s + j : end - 1) * D;
      k[j].load(from_keys + at, lane);
      v[j].load(from_values + at, lane);
    }
    fetched = false;
    float scores[AHEAD];
    float next = best;
#pragma unroll
    for (int j = 0; j < AHEAD; j++) {
      float dot = query.dot(k[j]) * scale;
      scores[j] = s + j < end ? dot : -INFINITY;
      next = metal::max(next, scores[j]);
    }
    float fade = metal::exp2(best - next);
    best = next;
    total *= fade;
#pragma unroll
    for (int i = 0; i < PER; i++) mixed[i] *= fade;
#pragma unroll
    for (int j = 0; j < AHEAD; j++) {
      float weight = metal::exp2(scores[j] - best);
      total += weight;
#pragma unroll
      for (int i = 0; i < PER; i++) mixed[i] = metal::fma(weight, v[j].x[i], mixed[i]);
    }
  }
  fetched = false;
}
if (part == 0 && simd == 0) {  // the new token itself
  float score = query.dot(key) * scale;
  float next = metal::max(best, score);
  float fade = metal::exp2(best - next);
  float weight = metal::exp2(score - next);
  best = next;
  total = total * fade + weight;
#pragma unroll
  for (int i = 0; i < PER; i++) mixed[i] = mixed[i] * fade + weight * value.x[i];
}

threadgroup float bests[SIMDS];
threadgroup float totals[SIMDS];
threadgroup float sums[SIMDS * D];
if (lane == 0) {
  bests[simd] = best;
  totals[simd] = total;
}
#pragma unroll
for (int i = 0; i < PER; i++)
  if (lane * PER < D) sums[simd * D + lane * PER + i] = mixed[i];
threadgroup_barrier(mem_flags::mem_threadgroup);
uint thread_id = simd * 32 + lane;
for (uint d = thread_id; d < D; d += SIMDS * 32) {
  float top = bests[0];
  for (int i = 1; i < SIMDS; i++) top = metal::max(top, bests[i]);
  float sum = 0, weight = 0;
  for (int i = 0; i < SIMDS; i++) {
    // a simdgroup without keys has best = -inf and adds nothing, unless all have none
    float share = bests[i] == top ? 1.0f : metal::exp2(bests[i] - top);
    sum += share * sums[i * D + d];
    weight += share * totals[i];
  }
  if (SPLITS == 1) {
    out[head * D + d] = O(sum / weight);
  } else {
    device O* partial = out + (head * SPLITS + part) * (D + 2);
    partial[d] = O(sum);
    if (d == 0) {
      partial[D] = O(top);
      partial[D + 1] = O(weight);
    }
  }
}
