// h[pair, f] = silu(gate_e x) · (up_e x) · weight, e the pair's expert; a pair is (token, slot).
// The threadgroup stages its token, a tile at a time; then each simdgroup makes ROWS outputs, its
// lanes taking the rows' 16-byte pieces in turn, AHEAD of each row always under way.
//
// With an output `chosen`, the router's logits come in, and the first simdgroup of each threadgroup
// makes the choice itself while x is staged: one launch less, for a little work done many times.
typedef Piece<BITS> P;
typedef Row<T, BITS, GROUP> R;
constexpr int PIECES = K / P::SIZE;
constexpr int TILE_PIECES = TILE / P::SIZE;
threadgroup float4 staged[TILE / 4];
threadgroup float sums[TILE_PIECES];
threadgroup float norms[SIMDS];
uint lane = thread_index_in_simdgroup;
uint simd = simdgroup_index_in_threadgroup;
uint row = (threadgroup_position_in_grid.x * SIMDS + simd) * ROWS;
bool inside = row < F;
uint pair = threadgroup_position_in_grid.y;
uint at = (inside ? row : 0) * PIECES;
#ifdef HAS_chosen
threadgroup uint picked[1];
threadgroup float picked_weight[1];
if (simd == 0) {
  float weight;
  uint index;
  float logit[(E + 31) / 32];
#pragma unroll
  for (int j = 0; j < (E + 31) / 32; j++) {
    uint i = lane + 32 * j;
    logit[j] = float(logits[pair / TOPK * E + (i < E ? i : 0)]);
  }
  choose<E, TOPK, NORMALISE>(logit, lane, weight, index);
  if (lane == pair % TOPK) {
    picked[0] = index;
    picked_weight[0] = weight;
  }
  if (threadgroup_position_in_grid.x == 0 && pair % TOPK == 0 && lane < TOPK)
    chosen[pair + lane] = index;
}
#else
at += (ROUTED ? uint(experts[pair]) : 0u) * F * PIECES;
#endif
const device T* from = x + pair / TOPK * K;

float gates[ROWS], ups[ROWS];
#pragma unroll
for (int r = 0; r < ROWS; r++) gates[r] = ups[r] = 0;
float squares = 0;
for (int first = 0; first < PIECES; first += TILE_PIECES) {
  int pieces = PIECES - first < TILE_PIECES ? PIECES - first : TILE_PIECES;
  R gate[AHEAD][ROWS], up[AHEAD][ROWS];
#ifndef HAS_chosen
#pragma unroll
  for (int a = 0; a < AHEAD; a++) {
    uint p = at + first + within(32 * a + int(lane), pieces);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      gate[a][r].load(gate_w, gate_s, gate_b, p + r * PIECES);
      up[a][r].load(up_w, up_s, up_b, p + r * PIECES);
    }
  }
#endif

  if (first > 0) threadgroup_barrier(mem_flags::mem_threadgroup);
  squares += stage<T, BITS, NORM>(from + first * P::SIZE, norm + first * P::SIZE, staged, sums,
                                  pieces * P::SIZE, simd * 32 + lane, SIMDS * 32);
  float all = simd_sum(squares);
  if (lane == 0) norms[simd] = all;
  threadgroup_barrier(mem_flags::mem_threadgroup);
#ifdef HAS_chosen
  if (first == 0) at += picked[0] * F * PIECES;
#pragma unroll
  for (int a = 0; a < AHEAD; a++) {
    uint p = at + first + within(32 * a + int(lane), pieces);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      gate[a][r].load(gate_w, gate_s, gate_b, p + r * PIECES);
      up[a][r].load(up_w, up_s, up_b, p + r * PIECES);
    }
  }
#endif

  for (int base = 0; base < pieces; base += 32 * AHEAD) {
#pragma unroll
    for (int a = 0; a < AHEAD; a++) {
      int p = base + 32 * a + int(lane);
      if (p < pieces) {
        float v[P::SIZE];
        read_piece<BITS>(staged, p, v);
        float sum = sums[p];
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
          gates[r] += gate[a][r].dot(v, sum);
          ups[r] += up[a][r].dot(v, sum);
        }
      }
      if (base + 32 * (a + AHEAD) < pieces) {
        uint q = at + first + within(p + 32 * AHEAD, pieces);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
          gate[a][r].load(gate_w, gate_s, gate_b, q + r * PIECES);
          up[a][r].load(up_w, up_s, up_b, q + r * PIECES);
        }
      }
    }
  }
}
float rstd = 1;
if (NORM) {
  float all = 0;
#pragma unroll
  for (int i = 0; i < SIMDS; i++) all += norms[i];
  rstd = metal::precise::rsqrt(all / K + as_type<float>(EPS));
}
#ifdef HAS_chosen
float weight = picked_weight[0];
#else
float weight = ROUTED ? float(weights[pair]) : 1.0f;
#endif
#pragma unroll
for (int r = 0; r < ROWS; r++) {
  float g = simd_sum(gates[r]) * rstd;
  float u = simd_sum(ups[r]) * rstd;
  if (lane == 0 && inside)
    h[pair * F + row + r] = T(g / (1 + metal::exp(-g)) * u * weight);
}
