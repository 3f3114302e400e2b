// y[t, d] = Σ_slot Σ_f W[e, d, f] h[t, slot, f] (+ residual[t, d]), e the slot's expert.
// The threadgroup stages the hidden layers of all slots, a tile at a time; then each simdgroup makes
// ROWS outputs, its lanes taking 16-byte pieces of all slots' rows in turn, so that none idles
// where one expert's row is short.
typedef Piece<BITS> P;
typedef Row<T, BITS, GROUP> R;
constexpr int PIECES = F / P::SIZE;
constexpr int ALL = TOPK * PIECES;
constexpr int TILE_PIECES = TILE / P::SIZE;
threadgroup float4 staged[TILE / 4];
threadgroup float sums[TILE_PIECES];
uint lane = thread_index_in_simdgroup;
uint simd = simdgroup_index_in_threadgroup;
uint row = (threadgroup_position_in_grid.x * SIMDS + simd) * ROWS;
bool inside = row < N;
uint own = inside ? row : 0;
uint token = threadgroup_position_in_grid.y;
const device T* from = h + token * TOPK * F;

float totals[ROWS];
#pragma unroll
for (int r = 0; r < ROWS; r++) totals[r] = 0;
for (int first = 0; first < ALL; first += TILE_PIECES) {
  int pieces = ALL - first < TILE_PIECES ? ALL - first : TILE_PIECES;
  R held[AHEAD][ROWS];
#pragma unroll
  for (int a = 0; a < AHEAD; a++) {
    int p = first + within(32 * a + int(lane), pieces);
    int slot = p / PIECES;
    uint at = (uint(experts[token * TOPK + slot]) * N + own) * PIECES + (p - slot * PIECES);
#pragma unroll
    for (int r = 0; r < ROWS; r++) held[a][r].load(down_w, down_s, down_b, at + r * PIECES);
  }

  if (first > 0) threadgroup_barrier(mem_flags::mem_threadgroup);
  stage<T, BITS, false>(from + first * P::SIZE, from, staged, sums, pieces * P::SIZE,
                        simd * 32 + lane, SIMDS * 32);
  threadgroup_barrier(mem_flags::mem_threadgroup);

  for (int base = 0; base < pieces; base += 32 * AHEAD) {
#pragma unroll
    for (int a = 0; a < AHEAD; a++) {
      int p = base + 32 * a + int(lane);
      if (p < pieces) {
        float v[P::SIZE];
        read_piece<BITS>(staged, p, v);
#pragma unroll
        for (int r = 0; r < ROWS; r++) totals[r] += held[a][r].dot(v, sums[p]);
      }
      if (base + 32 * (a + AHEAD) < pieces) {
        int q = first + within(p + 32 * AHEAD, pieces);
        int slot = q / PIECES;
        uint at = (uint(experts[token * TOPK + slot]) * N + own) * PIECES + (q - slot * PIECES);
#pragma unroll
        for (int r = 0; r < ROWS; r++) held[a][r].load(down_w, down_s, down_b, at + r * PIECES);
      }
    }
  }
}
#pragma unroll
for (int r = 0; r < ROWS; r++) {
  float total = simd_sum(totals[r]);
  uint out = token * N + row + r;
  if (lane == 0 && inside) y[out] = T(RESIDUAL ? total + float(residual[out]) : total);
}
