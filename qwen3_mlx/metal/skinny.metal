// A few rows x [R, K], R at most 8 · HALVES, on matrix units: weights are read once for all of them.
// y[r, n] = Σ_k W[n, k] x[r, k], of up to three matrices one after another, times rstd if NORM, plus
// residual. GATED: of two matrices, y = silu(gate) · up. ROUTED: the matrices of the grid's y-th of
// the experts that any row chose, and the routers' weights are multiplied in. SUMMED: each row's
// experts are summed, one after the other.
//
// A tile is 16 rows of W, of gate and up 8 each. A threadgroup makes TILES of them, its simdgroups
// sharing out the chunks of K, AHEAD of them always under way; a lane holds a piece of 16 bytes, a
// quarter of the chunk, of two rows of each tile. Which k a lane holds is of no matter to a sum as long
// as x is read alike, so pieces stay whole and x comes straight from where it lies.
constexpr int PIECE = 128 / BITS;  // weights of 16 bytes
constexpr int UNITS = PIECE / 8;  // of a piece: 8 weights each, and 16 bytes of x
constexpr int PIECES = K / PIECE;
constexpr int CHUNKS = PIECES / 4;
constexpr int N = GATED ? N0 : N0 + N1 + N2;
constexpr int WIDE = GATED ? 8 : 16;  // columns of y that a tile makes
constexpr int PLACES = 16 * 9;  // of a tile's sums of 8 rows of x; 9, so that lanes meet other banks
threadgroup float partial[SIMDS * TILES * HALVES * PLACES];
threadgroup float norms[SIMDS * 16];
int lane = thread_index_in_simdgroup;
int simd = simdgroup_index_in_threadgroup;
int own_row = lane / 4, quarter = lane % 4;
int rows = x_shape[0];
int first = threadgroup_position_in_grid.x * WIDE * TILES;
int own_group = threadgroup_position_in_grid.y;
if (ROUTED && !SUMMED && own_group >= int(groups[0])) return;
int steps = SUMMED ? int(groups[0]) * CHUNKS : CHUNKS;

float sums[TILES][HALVES][4], squares[HALVES][4];
#pragma unroll
for (int i = 0; i < 4; i++) {
#pragma unroll
  for (int m = 0; m < HALVES; m++) {
    squares[m][i] = 0;
#pragma unroll
    for (int t = 0; t < TILES; t++) sums[t][m][i] = 0;
  }
}
uint4 words[AHEAD][2 * TILES];
T scales[AHEAD][2 * TILES], biases[AHEAD][2 * TILES];
for (int base = simd - AHEAD * SIMDS; base < steps; base += AHEAD * SIMDS) {
#pragma unroll
  for (int a = 0; a < AHEAD; a++) {
    int step = base + a * SIMDS, next = step + AHEAD * SIMDS;
    if (step >= 0 && step < steps) {
      int chunk = SUMMED ? step % CHUNKS : step;
      uint4 taken[HALVES][UNITS];
#pragma unroll
      for (int m = 0; m < HALVES; m++) {
        int source = 8 * m + own_row;
        bool absent = source >= rows;
        if (SUMMED) {
          int slot = absent ? -1 : int(members[step / CHUNKS * rows + source]);
          absent = slot < 0;
          source = source * TOPK + slot;
        }
        size_t at = size_t(absent ? 0 : source) * (K / 8) + (chunk * 4 + quarter) * UNITS;
#pragma unroll
        for (int p = 0; p < UNITS; p++) {
          uint4 unit;
          unit.x = unit.y = unit.z = unit.w = 0;
          if (!absent) unit = ((const device uint4*)x)[at + p];
          if (NORM) {
            multiply_tile<T>(lane, squares[m], unit.x, 0, unit.y, 0, unit.x, unit.y);
            multiply_tile<T>(lane, squares[m], unit.z, 0, unit.w, 0, unit.z, unit.w);
            uint4 gain = ((const device uint4*)norm)[(chunk * 4 + quarter) * UNITS + p];
            unit.x = times_pair<T>(unit.x, gain.x);
            unit.y = times_pair<T>(unit.y, gain.y);
            unit.z = times_pair<T>(unit.z, gain.z);
            unit.w = times_pair<T>(unit.w, gain.w);
          }
          taken[m][p] = paired_as_weights<BITS>(unit);
        }
      }
#pragma unroll
      for (int p = 0; p < UNITS; p++) {
#pragma unroll
        for (int t = 0; t < TILES; t++) {
          uint4 b = unit_pairs<T, BITS>(words[a][2 * t], p, scales[a][2 * t], biases[a][2 * t]);
          uint4 c = unit_pairs<T, BITS>(words[a][2 * t + 1], p, scales[a][2 * t + 1],
                                        biases[a][2 * t + 1]);
#pragma unroll
          for (int m = 0; m < HALVES; m++) {
            uint4 own = taken[m][p];
            multiply_tile<T>(lane, sums[t][m], b.x, c.x, b.y, c.y, own.x, own.y);
            multiply_tile<T>(lane, sums[t][m], b.z, c.z, b.w, c.w, own.z, own.w);
          }
        }
      }
    }
    if (next < steps) {
      int chunk = SUMMED ? next % CHUNKS : next;
      int expert = ROUTED ? int(groups[1 + (SUMMED ? next / CHUNKS : own_group)]) : 0;
#pragma unroll
      for (int r = 0; r < 2 * TILES; r++) {
        int n = first + (GATED ? r / 2 : r) * 8 + own_row;
        n = n < N ? n : N - 1;
        int which = GATED ? r % 2 : n < N0 ? 0 : n < N0 + N1 ? 1 : 2;
        int rows_of = which < 1 ? N0 : which < 2 ? N1 : N2;
        int own = GATED ? n : which < 1 ? n : which < 2 ? n - N0 : n - N0 - N1;
        size_t at = (size_t(expert) * rows_of + own) * PIECES + chunk * 4 + quarter;
        words[a][r] = ((const device uint4*)(which < 1 ? w0 : which < 2 ? w1 : w2))[at];
        if (BITS < 16) {
          size_t of = at / (BITS < 16 ? GROUP / PIECE : 1);
          scales[a][r] = (which < 1 ? s0 : which < 2 ? s1 : s2)[of];
          biases[a][r] = (which < 1 ? b0 : which < 2 ? b1 : b2)[of];
        }
      }
    }
  }
}

#pragma unroll
for (int m = 0; m < HALVES; m++) {
  // Of a row's products with the others the one with itself: column own_row of row own_row.
  if (NORM && quarter == own_row / 2) norms[simd * 16 + 8 * m + own_row] = own_row % 2 ? squares[m][1] : squares[m][0];
#pragma unroll
  for (int t = 0; t < TILES; t++) {
    int place = ((simd * TILES + t) * HALVES + m) * PLACES + own_row * 9 + 2 * quarter;
    partial[place] = sums[t][m][0];
    partial[place + 1] = sums[t][m][1];
    partial[place + 8 * 9] = sums[t][m][2];
    partial[place + 8 * 9 + 1] = sums[t][m][3];
  }
}
threadgroup_barrier(mem_flags::mem_threadgroup);
constexpr int PAIRS = WIDE / 2;
for (int i = simd * 32 + lane; i < TILES * HALVES * 8 * PAIRS; i += SIMDS * 32) {
  int tile = i / (8 * PAIRS), pair = i % PAIRS, row = tile % HALVES * 8 + i / PAIRS % 8;
  int n = first + tile / HALVES * WIDE + 2 * pair;
  if (row < rows && n < N) {
    float a = 0, b = 0, up_a = 0, up_b = 0, all = 0;
    for (int s = 0; s < SIMDS; s++) {
      int place = (s * TILES * HALVES + tile) * PLACES + 2 * pair * 9 + row % 8;
      a += partial[place];
      b += partial[place + 9];
      if (GATED) {
        up_a += partial[place + 8 * 9];
        up_b += partial[place + 8 * 9 + 9];
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
