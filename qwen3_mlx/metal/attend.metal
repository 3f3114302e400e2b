// New tokens attend to their past and to each other: q-norm, k-norm, rotation, softmax(q kᵀ) v.
//
// A row is a new token: the rows[1]-th of those that the sequence rows[0] has in this step, MOST at
// most. A sequence's past is in two places: its `keys` and `values` hold counts[0] tokens, as
// computed or packed, and its `tail` the counts[1] after them. A kernel can't write into its inputs,
// so new tokens are appended to a copy of the tail, which is short. A threadgroup takes one row,
// QUERIES heads that share a key head, and one part of the past, of as many as the grid is high.
// LANES lanes share a key, so a simdgroup has several side by side; every LANES lanes keep a softmax
// of their own, and all are merged at the end.
typedef Share<T, D, LANES> Part;
constexpr int PER = Part::PER;
constexpr int PER_KEY_HEAD = H / KV;
constexpr int SIDE = 32 / LANES;  // keys that a simdgroup has side by side
constexpr float LOWEST = -3e38f;  // finite: lanes without a key have it for their best
uint lane = thread_index_in_simdgroup;
uint simd = simdgroup_index_in_threadgroup;
uint head = threadgroup_position_in_grid.x * QUERIES;
uint part = threadgroup_position_in_grid.y;
int parts = threadgroups_per_grid.y;
uint kv = head / PER_KEY_HEAD;
uint own = lane % LANES;
int side = lane / LANES;
uint row = threadgroup_position_in_grid.z;
int seq = ROWED ? rows[2 * row] : 0;
int ahead = ROWED ? rows[2 * row + 1] : 0;  // the sequence's rows before this one
int held = counts[2 * seq];
int recent = counts[2 * seq + 1];
PICK(keys_w)
PICK(keys_s)
PICK(keys_b)
PICK(values_w)
PICK(values_s)
PICK(values_b)

uint own_rows = kv * uint(ROWED ? capacities[seq] : keys_w0_shape[2]);
int share = (held + parts - 1) / parts;
int first_end = (int(part) + 1) * share < held ? (int(part) + 1) * share : held;

// A key and a value a lane are always under way: the first while the query is made ready.
Kept<T, BITS, GROUP, Part> next_key, next_value;
int s0 = int(part) * share + int(simd) * SIDE + side;
uint row0 = own_rows + (s0 < held ? s0 : held > 0 ? held - 1 : 0);
next_key.fetch(keys_w, keys_s, keys_b, row0, own);
next_value.fetch(values_w, values_s, values_b, row0, own);

// The queries and the new keys, each made ready by one simdgroup, where all can read them.
threadgroup float ready[(QUERIES + MOST) * D];
for (int i = simd; i <= QUERIES + ahead; i += SIMDS) {
  uint from = i < QUERIES ? row : row - ahead + i - QUERIES;
  Head<T, D> one;
  one.load(qkv + (from * (H + 2 * KV) + (i < QUERIES ? head + i : H + kv)) * D, lane);
  one.norm_and_turn(i < QUERIES ? q_norm : k_norm, as_type<float>(EPS), turns + from * D, lane);
#pragma unroll
  for (int j = 0; j < Head<T, D>::PER; j++)
    if (lane * Head<T, D>::PER < D) ready[i * D + lane * Head<T, D>::PER + j] = one.x[j];
}
threadgroup_barrier(mem_flags::mem_threadgroup);
Part query[QUERIES];
#pragma unroll
for (int q = 0; q < QUERIES; q++) {
#pragma unroll
  for (int i = 0; i < PER; i++) query[q].x[i] = ready[q * D + own * PER + i];
}

uint own_tail = (2 * seq * KV + kv) * TAIL * D;
const device T* old_keys = tail + own_tail;
const device T* old_values = old_keys + KV * TAIL * D;
const device T* new_value = qkv + ((row - ahead) * (H + 2 * KV) + H + KV + kv) * D;
if (part == 0) {  // the threadgroups of a key head share the copying
  device T* new_keys = new_tail + own_tail;
  device T* new_values = new_keys + KV * TAIL * D;
  constexpr int GROUPS = PER_KEY_HEAD / QUERIES;
  uint first = threadgroup_position_in_grid.x % GROUPS * SIMDS + simd;
  uint copied = ahead > 0 ? 0 : recent * D / 4;
  for (uint i = first * 32 + lane; i < copied; i += GROUPS * SIMDS * 32) {
    ((device vec<T, 4>*)new_keys)[i] = ((const device vec<T, 4>*)old_keys)[i];
    ((device vec<T, 4>*)new_values)[i] = ((const device vec<T, 4>*)old_values)[i];
  }
  if (first == 0) {
    for (uint d = lane; d < D; d += 32) {
      uint to = (recent + ahead) * D + d;
      new_keys[to] = T(ready[(QUERIES + ahead) * D + d]);
      new_values[to] = new_value[ahead * (H + 2 * KV) * D + d];
    }
  }
}

float scale = 1.44269504f * metal::precise::rsqrt(float(D));  // of powers of 2, not of e
float best[QUERIES], total[QUERIES], mixed[QUERIES][PER];
#pragma unroll
for (int q = 0; q < QUERIES; q++) {
  best[q] = LOWEST;
  total[q] = 0;
#pragma unroll
  for (int i = 0; i < PER; i++) mixed[q][i] = 0;
}

// The past, the tail, and as the last the new tokens up to this one.
for (int source = 0; source < 3; source++) {
  int begin = source ? 0 : int(part) * share;
  int end = source == 0 ? first_end : part > 0 ? 0 : source == 1 ? recent : ahead + 1;
  for (int s = begin + int(simd) * SIDE; s < end; s += SIMDS * SIDE) {
    int at = s + side < end ? s + side : end - 1;
    Part k, v;
    if (source == 0) {
      next_key.open(k, own);
      next_value.open(v, own);
      int next = s + side + SIMDS * SIDE;
      uint next_row = own_rows + (next < end ? next : end - 1);
      next_key.fetch(keys_w, keys_s, keys_b, next_row, own);
      next_value.fetch(values_w, values_s, values_b, next_row, own);
    } else if (source == 1) {
      k.load(old_keys + at * D, own);
      v.load(old_values + at * D, own);
    } else {
#pragma unroll
      for (int i = 0; i < PER; i++) k.x[i] = ready[(QUERIES + at) * D + own * PER + i];
      v.load(new_value + at * (H + 2 * KV) * D, own);
    }
#pragma unroll
    for (int q = 0; q < QUERIES; q++) {
      float score = query[q].dot(k) * scale;
      if (s + side >= end) score = -INFINITY;
      float top = metal::max(best[q], score);
      float fade = metal::exp2(best[q] - top);
      float weight = metal::exp2(score - top);
      best[q] = top;
      total[q] = total[q] * fade + weight;
#pragma unroll
      for (int i = 0; i < PER; i++) mixed[q][i] = metal::fma(weight, v.x[i], mixed[q][i] * fade);
    }
  }
}

threadgroup float bests[QUERIES * SIMDS];
threadgroup float totals[QUERIES * SIMDS];
threadgroup float sums[QUERIES * SIMDS * D];
#pragma unroll
for (int q = 0; q < QUERIES; q++) {
  float top = simd_max(best[q]);
  float fade = metal::exp2(best[q] - top);
  int place = q * SIMDS + int(simd);
  float all = across<LANES>(total[q] * fade);
  if (lane == 0) {
    bests[place] = top;
    totals[place] = all;
  }
#pragma unroll
  for (int i = 0; i < PER; i++) {
    float sum = across<LANES>(mixed[q][i] * fade);
    if (side == 0) sums[place * D + int(own) * PER + i] = sum;
  }
}
threadgroup_barrier(mem_flags::mem_threadgroup);
for (uint at = simd * 32 + lane; at < QUERIES * D; at += SIMDS * 32) {
  uint q = at / D, d = at % D;
  float top = bests[q * SIMDS];
  for (int i = 1; i < SIMDS; i++) top = metal::max(top, bests[q * SIMDS + i]);
  float sum = 0, weight = 0;
  for (int i = 0; i < SIMDS; i++) {
    float fade = metal::exp2(bests[q * SIMDS + i] - top);
    sum += fade * sums[(q * SIMDS + i) * D + d];
    weight += fade * totals[q * SIMDS + i];
  }
  if (!SPLIT) {
    out[(row * H + head + q) * D + d] = O(sum / weight);
  } else {
    device O* partial = out + ((row * H + head + q) * parts + part) * (D + 2);
    partial[d] = O(sum);
    if (d == 0) {
      partial[D] = O(top);
      partial[D + 1] = O(weight);
    }
  }
}
