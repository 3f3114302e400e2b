// y[n] = Σ_k W[n, k] x[k], of up to three matrices one after another, times rstd if NORM, plus r[n].
// A simdgroup makes ROWS outputs, its lanes taking the rows' 16-byte pieces in turn. It reads x where
// it lies, so nothing is staged, nobody waits, and its part of Σ x² is the whole.
typedef Piece<BITS> P;
typedef Row<T, BITS, GROUP> R;
constexpr uint PIECES = K / P::SIZE;
uint lane = thread_index_in_simdgroup;
uint row = (threadgroup_position_in_grid.x * SIMDS + simdgroup_index_in_threadgroup) * ROWS;
bool inside = row < N0 + N1 + N2;
uint used = inside ? row : 0;

uint own = used < N0 ? used : used < N0 + N1 ? used - N0 : used - N0 - N1;
auto w = used < N0 ? w0 : used < N0 + N1 ? w1 : w2;
auto s = used < N0 ? s0 : used < N0 + N1 ? s1 : s2;
auto b = used < N0 ? b0 : used < N0 + N1 ? b1 : b2;

float totals[ROWS];
#pragma unroll
for (int r = 0; r < ROWS; r++) totals[r] = 0;
float squares = 0;
#pragma unroll 1  // else short rows are read at once, and registers spill
for (uint p = lane; p < PIECES; p += 32) {
  float v[P::SIZE];
  float sum = own_piece<T, BITS, NORM>(x, norm, p, v, squares);
  uint at = own * PIECES + p;
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    R one;
    one.load(w, s, b, at);
    totals[r] += one.dot(v, sum);
    at += PIECES;
  }
}
float rstd = 1;
if (NORM) rstd = metal::precise::rsqrt(simd_sum(squares) / K + as_type<float>(EPS));
#pragma unroll
for (int r = 0; r < ROWS; r++) {
  float total = simd_sum(totals[r]) * rstd;
  if (lane == 0 && inside) y[row + r] = T(RESIDUAL ? total + float(residual[row + r]) : total);
}
