// y[t, d] = Σ_slot Σ_f W[e, d, f] h[t, slot, f] (+ residual[t, d]), e the slot's expert.
// A simdgroup makes ROWS outputs, its lanes taking 16-byte pieces of all slots' rows in turn, so that
// none idles where one expert's row is short. It reads h where it lies, as `matvec` does.
typedef Piece<BITS> P;
typedef Row<T, BITS, GROUP> R;
constexpr uint PIECES = F / P::SIZE;
constexpr uint ALL = TOPK * PIECES;
uint lane = thread_index_in_simdgroup;
uint row = (threadgroup_position_in_grid.x * SIMDS + simdgroup_index_in_threadgroup) * ROWS;
bool inside = row < N;
uint own = inside ? row : 0;
uint token = threadgroup_position_in_grid.y;
const device T* from = h + token * TOPK * F;

float totals[ROWS];
#pragma unroll
for (int r = 0; r < ROWS; r++) totals[r] = 0;
float squares = 0;
#pragma unroll 1  // else short rows are read at once, and registers spill
for (uint p = lane; p < ALL; p += 32) {
  uint slot = p / PIECES;
  uint at = (uint(experts[token * TOPK + slot]) * N + own) * PIECES + (p - slot * PIECES);
  float v[P::SIZE];
  float sum = own_piece<T, BITS, false>(from, from, p, v, squares);
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    R one;
    one.load(down_w, down_s, down_b, at + r * PIECES);
    totals[r] += one.dot(v, sum);
  }
}
#pragma unroll
for (int r = 0; r < ROWS; r++) {
  float total = simd_sum(totals[r]);
  uint out = token * N + row + r;
  if (lane == 0 && inside) y[out] = T(RESIDUAL ? total + float(residual[out]) : total);
}
