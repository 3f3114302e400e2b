// h[pair, f] = silu(gate_e x) · (up_e x) · weight, e the pair's expert; a pair is (token, slot).
// A simdgroup makes ROWS outputs, its lanes taking the rows' 16-byte pieces in turn. It reads its
// token's x where it lies, as `matvec` does.
typedef Piece<BITS> P;
typedef Row<T, BITS, GROUP> R;
constexpr uint PIECES = K / P::SIZE;
uint lane = thread_index_in_simdgroup;
uint row = (threadgroup_position_in_grid.x * SIMDS + simdgroup_index_in_threadgroup) * ROWS;
bool inside = row < F;
uint pair = threadgroup_position_in_grid.y;
uint at = ((ROUTED ? uint(experts[pair]) : 0u) * F + (inside ? row : 0)) * PIECES;
const device T* from = x + pair / TOPK * K;

float gates[ROWS], ups[ROWS];
#pragma unroll
for (int r = 0; r < ROWS; r++) gates[r] = ups[r] = 0;
float squares = 0;
#pragma unroll 1  // else short rows are read at once, and registers spill
for (uint p = lane; p < PIECES; p += 32) {
  float v[P::SIZE];
  float sum = own_piece<T, BITS, NORM>(from, norm, p, v, squares);
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    R gate, up;
    gate.load(gate_w, gate_s, gate_b, at + r * PIECES + p);
    up.load(up_w, up_s, up_b, at + r * PIECES + p);
    gates[r] += gate.dot(v, sum);
    ups[r] += up.dot(v, sum);
  }
}
float rstd = 1;
if (NORM) rstd = metal::precise::rsqrt(simd_sum(squares) / K + as_type<float>(EPS));
float weight = ROUTED ? float(weights[pair]) : 1.0f;
#pragma unroll
for (int r = 0; r < ROWS; r++) {
  float g = simd_sum(gates[r]) * rstd;
  float u = simd_sum(ups[r]) * rstd;
  if (lane == 0 && inside) h[pair * F + row + r] = T(g / (1 + metal::exp(-g)) * u * weight);
}
