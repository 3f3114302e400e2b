// y[n] = Σ_k W[n, k] x[k], of up to three matrices one after another, times rstd if NORM, plus r[n].
// The threadgroup stages x, a tile at a time; then each simdgroup makes ROWS outputs, its lanes
// taking the rows' 16-byte pieces in turn, AHEAD of each row always under way.
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
for (int first = 0; first < PIECES; first += TILE_PIECES) {
  int pieces = PIECES - first < TILE_PIECES ? PIECES - first : TILE_PIECES;
  R held[AHEAD][ROWS];
#pragma unroll
  for (int a = 0; a < AHEAD; a++) {
    int p = within(32 * a + int(lane), pieces);
#pragma unroll
    for (int r = 0; r < ROWS; r++) held[a][r].load(w, s, b, uint(own + r) * PIECES + first + p);
  }

  if (first > 0) threadgroup_barrier(mem_flags::mem_threadgroup);
  squares += stage<T, BITS, NORM>(x + first * P::SIZE, norm + first * P::SIZE, staged, sums,
                                  pieces * P::SIZE, simd * 32 + lane, SIMDS * 32);
  float all = simd_sum(squares);
  if (lane == 0) norms[simd] = all;
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
        int q = within(p + 32 * AHEAD, pieces);
#pragma unroll
        for (int r = 0; r < ROWS; r++)
          held[a][r].load(w, s, b, uint(own + r) * PIECES + first + q);
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
#pragma unroll
for (int r = 0; r < ROWS; r++) {
  float total = simd_sum(totals[r]) * rstd;
  if (lane == 0 && inside) y[row + r] = T(RESIDUAL ? total + float(residual[row + r]) : total);
}
