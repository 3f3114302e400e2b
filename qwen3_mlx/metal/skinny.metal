// A few rows x [R, K], R at most 8 · HALVES, on matrix units: weights are read once for all of them.
// y[r, n] = Σ_k W[n, k] x[r, k], of up to three matrices one after another, times rstd if NORM, plus
// residual. GATED: of two matrices, y = silu(gate) · up. ROUTED: the matrices of the grid's y-th of
// the experts that any row chose, and the routers' weights are multiplied in. SUMMED: each row's
// experts are summed, one after the other.
//
// A threadgroup makes COLUMNS columns, its simdgroups sharing out the chunks of K; a lane holds a
// column's piece of 16 bytes, a quarter of the chunk. Which k a lane holds is of no matter to a sum as
// long as x is read alike, so pieces stay whole and x comes straight from where it lies.
constexpr int PIECE = 128 / BITS;  // weights of 16 bytes
constexpr int UNITS = PIECE / 8;  // of a piece: 8 weights each, and 16 bytes of x
constexpr int PIECES = K / PIECE;
constexpr int CHUNKS = PIECES / 4;
constexpr int N = GATED ? N0 : N0 + N1 + N2;
constexpr int SIDE = GATED ? TILES / 2 : TILES;  // tiles of one matrix
threadgroup float partial[SIMDS * TILES * HALVES * 64];
threadgroup float norms[SIMDS * 16];
int lane = thread_index_in_simdgroup;
int simd = simdgroup_index_in_threadgroup;
int column = lane / 4, quarter = lane % 4;
int rows = x_shape[0];
int first = threadgroup_position_in_grid.x * 8 * SIDE;
int own_group = threadgroup_position_in_grid.y;
if (ROUTED && !SUMMED && own_group >= int(groups[0])) return;
int steps = SUMMED ? int(groups[0]) * CHUNKS : CHUNKS;

float sums[TILES][4];
#pragma unroll
for (int t = 0; t < TILES; t++) {
#pragma unroll
  for (int i = 0; i < 4; i++) sums[t][i] = 0;
}
float squares[2] = {0, 0};
uint4 words[TILES], next_words[TILES];
T scales[TILES], next_scales[TILES], biases[TILES], next_biases[TILES];
for (int step = simd - SIMDS; step < steps; step += SIMDS) {
  int next = step + SIMDS;
  if (next < steps) {
    int chunk = SUMMED ? next % CHUNKS : next;
    int expert = ROUTED ? int(groups[1 + (SUMMED ? next / CHUNKS : own_group)]) : 0;
#pragma unroll
    for (int t = 0; t < TILES; t++) {
      int n = first + 8 * (t % SIDE) + column;
      n = n < N ? n : N - 1;
      int which = GATED ? t / SIDE : n < N0 ? 0 : n < N0 + N1 ? 1 : 2;
      int rows_of = which < 1 ? N0 : which < 2 ? N1 : N2;
      int own = GATED ? n : which < 1 ? n : which < 2 ? n - N0 : n - N0 - N1;
      size_t at = (size_t(expert) * rows_of + own) * PIECES + chunk * 4 + quarter;
      auto w = which < 1 ? w0 : which < 2 ? w1 : w2;
      next_words[t] = ((const device uint4*)w)[at];
      if (BITS < 16) {
        size_t of = at / (BITS < 16 ? GROUP / PIECE : 1);
        next_scales[t] = (which < 1 ? s0 : which < 2 ? s1 : s2)[of];
        next_biases[t] = (which < 1 ? b0 : which < 2 ? b1 : b2)[of];
      }
    }
  }
  if (step >= 0) {
    int chunk = SUMMED ? step % CHUNKS : step;
    uint4 taken[HALVES][UNITS];
#pragma unroll
    for (int m = 0; m < HALVES; m++) {
      int row = 8 * m + column;
      int source = row < rows ? row : 0;
      bool absent = false;
      if (SUMMED) {
        int slot = int(members[step / CHUNKS * rows + source]);
        absent = row >= rows || slot < 0;
        source = source * TOPK + (slot < 0 ? 0 : slot);
      }
      size_t at = size_t(source) * (K / 8) + (chunk * 4 + quarter) * UNITS;
#pragma unroll
      for (int p = 0; p < UNITS; p++) {
        uint4 unit = ((const device uint4*)x)[at + p];
        if (NORM) {
          uint4 gain = ((const device uint4*)norm)[(chunk * 4 + quarter) * UNITS + p];
          unit.x = gained<T>(unit.x, gain.x, squares[m]);
          unit.y = gained<T>(unit.y, gain.y, squares[m]);
          unit.z = gained<T>(unit.z, gain.z, squares[m]);
          unit.w = gained<T>(unit.w, gain.w, squares[m]);
        }
        if (SUMMED && absent) unit.x = unit.y = unit.z = unit.w = 0;
        taken[m][p] = unit;
      }
    }
#pragma unroll
    for (int p = 0; p < UNITS; p++) {
      uint4 low = taken[0][p], high = taken[HALVES - 1][p];
      if (HALVES < 2) high.x = high.y = high.z = high.w = 0;
#pragma unroll
      for (int t = 0; t < TILES; t++) {
        uint b[4];
        unit_pairs<T, BITS>(words[t], p, scales[t], biases[t], b);
        multiply_tile<T>(lane, sums[t], low.x, high.x, low.y, high.y, b[0], b[1]);
        multiply_tile<T>(lane, sums[t], low.z, high.z, low.w, high.w, b[2], b[3]);
      }
    }
  }
#pragma unroll
  for (int t = 0; t < TILES; t++) {
    words[t] = next_words[t];
    scales[t] = next_scales[t];
    biases[t] = next_biases[t];
  }
}

#pragma unroll
for (int m = 0; m < HALVES; m++) {
  if (NORM) {
    float all = squares[m] + simd_shuffle_xor(squares[m], ushort(1));
    all += simd_shuffle_xor(all, ushort(2));
    if (quarter == 0) norms[simd * 16 + 8 * m + column] = all;
  }
#pragma unroll
  for (int t = 0; t < TILES; t++) {
    int place = ((simd * TILES + t) * HALVES + m) * 64 + 2 * lane;
    partial[place] = sums[t][2 * m];
    partial[place + 1] = sums[t][2 * m + 1];
  }
}
threadgroup_barrier(mem_flags::mem_threadgroup);
for (int i = simd * 32 + lane; i < SIDE * HALVES * 32; i += SIMDS * 32) {
  int t = i / (32 * HALVES), m = i / 32 % HALVES;
  int row = 8 * m + i % 32 / 4, n = first + 8 * t + 2 * (i % 4);
  if (row < rows && n < N) {
    float a = 0, b = 0, up_a = 0, up_b = 0, all = 0;
    for (int s = 0; s < SIMDS; s++) {
      int place = ((s * TILES + t) * HALVES + m) * 64 + 2 * (i % 32);
      a += partial[place];
      b += partial[place + 1];
      if (GATED) {
        up_a += partial[place + SIDE * HALVES * 64];
        up_b += partial[place + SIDE * HALVES * 64 + 1];
      }
      if (NORM) all += norms[s * 16 + row];
    }
    float rstd = NORM ? metal::precise::rsqrt(all / K + as_type<float>(EPS)) : 1.0f;
    int to = row, slot = 0;
    if (ROUTED && !SUMMED) {
      slot = int(members[own_group * rows + row]);
      to = row * TOPK + slot;
    }
    if (slot >= 0) {
      a *= rstd;
      b *= rstd;
      if (GATED) {
        float weight = ROUTED ? float(weights[to]) : 1.0f;
        a = a / (1 + metal::exp(-a)) * (up_a * rstd) * weight;
        b = b / (1 + metal::exp(-b)) * (up_b * rstd) * weight;
      }
      size_t out = size_t(to) * N + n;
      if (RESIDUAL) {
        a += float(residual[out]);
        b += float(residual[out + 1]);
      }
      *(device uint*)(y + out) = two<T>(a, b);
    }
  }
}
