// Many rows through their experts: y[i, n] = Σ_k W[e, n, k] x[source(i), k], rows sorted by expert.
// GATED: of two matrices, y = silu(gate) · up · weight, and rows are gathered where they lie in x;
// else the rows lie sorted, and what they give goes back to where they came from.
//
// A threadgroup takes ROWS rows of one expert and SIMDS · COLUMNS columns. x goes through threadgroup
// memory a chunk at a time, the next under way while one is multiplied. Weights go to registers as
// they are packed: a lane holds one column's piece, a quarter of the chunk. Which k a lane holds is
// of no matter to a sum as long as x is read alike, so pieces stay whole and nothing is exchanged.
constexpr int PIECE = 128 / BITS;  // weights of 16 bytes
constexpr int UNITS = PIECE / 8;  // of a piece: 8 weights each, and 16 bytes of x
constexpr int PIECES = K / PIECE;
constexpr int CHUNKS = PIECES / 4;
constexpr int MATRICES = GATED ? 2 : 1;
constexpr int COLUMNS = 8 * TILES / MATRICES;
constexpr int STAGE = ROWS * 4 * UNITS;
threadgroup uint4 staged[2 * STAGE];
threadgroup uint sources[ROWS];
threadgroup int found[2];
int lane = thread_index_in_simdgroup;
int simd = simdgroup_index_in_threadgroup;
int own = simd * 32 + lane;
int column = lane / 4, quarter = lane % 4;

// Which expert's rows these are: the one whose tiles include this one.
int tile = threadgroup_position_in_grid.y;
if (own == 0) found[0] = -1;
threadgroup_barrier(mem_flags::mem_threadgroup);
for (int e = own; e < E; e += SIMDS * 32) {
  int before = e > 0 ? tiles[e - 1] : 0;
  if (before <= tile && tile < tiles[e]) {
    found[0] = e;
    found[1] = tile - before;
  }
}
threadgroup_barrier(mem_flags::mem_threadgroup);
int expert = found[0];
if (expert < 0) return;
int start = (expert > 0 ? ends[expert - 1] : 0) + found[1] * ROWS;
int rows = ends[expert] - start < ROWS ? ends[expert] - start : ROWS;
for (int r = own; r < ROWS; r += SIMDS * 32) {
  int at = start + (r < rows ? r : rows - 1);
  sources[r] = GATED ? uint(order[at]) / TOPK : uint(at);
}

int first = (threadgroup_position_in_grid.x * SIMDS + simd) * COLUMNS;
float sums[ROWS / 16][TILES][4];
#pragma unroll
for (int m = 0; m < ROWS / 16; m++) {
#pragma unroll
  for (int t = 0; t < TILES; t++) {
#pragma unroll
    for (int i = 0; i < 4; i++) sums[m][t][i] = 0;
  }
}
uint4 words[TILES], next_words[TILES];
T scales[TILES], next_scales[TILES], biases[TILES], next_biases[TILES];
for (int chunk = -1; chunk < CHUNKS; chunk++) {
  copies_done();
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (chunk + 1 < CHUNKS) {
    for (int i = own; i < STAGE; i += SIMDS * 32) {
      int r = i / (4 * UNITS), unit = i % (4 * UNITS);
      const device uint4* from = (const device uint4*)x + size_t(sources[r]) * (K / 8);
      int place = Unit<UNITS, ROWS>::place(r, unit / UNITS, unit % UNITS);
      copy_unit(staged + (chunk + 1) % 2 * STAGE + place, from + (chunk + 1) * 4 * UNITS + unit);
    }
#pragma unroll
    for (int t = 0; t < TILES; t++) {
      int n = first + 8 * (t % (TILES / MATRICES)) + column;
      size_t at = (size_t(expert) * N + (n < N ? n : N - 1)) * PIECES + (chunk + 1) * 4 + quarter;
      size_t group = at * PIECE / GROUP;
      bool second = t >= TILES / MATRICES;
      next_words[t] = ((const device uint4*)(second ? up_w : gate_w))[at];
      next_scales[t] = (second ? up_s : gate_s)[group];
      next_biases[t] = (second ? up_b : gate_b)[group];
    }
  }
  if (chunk >= 0) {
    const in_threadgroup uint4* from = staged + chunk % 2 * STAGE;
#pragma unroll
    for (int p = 0; p < UNITS; p++) {
      uint pairs[TILES][4];
#pragma unroll
      for (int t = 0; t < TILES; t++) {
        const thread uint* unit = (const thread uint*)(words + t) + p * BITS / 4;
        unpack_unit<T, BITS>(unit, scales[t], biases[t], pairs[t]);
      }
#pragma unroll
      for (int m = 0; m < ROWS / 16; m++) {
        if (16 * m < rows) {
          uint4 low = from[Unit<UNITS, ROWS>::place(16 * m + column, quarter, p)];
          uint4 high = from[Unit<UNITS, ROWS>::place(16 * m + 8 + column, quarter, p)];
#pragma unroll
          for (int t = 0; t < TILES; t++) {
            const thread uint* b = pairs[t];
            multiply_tile<T>(lane, sums[m][t], low.x, high.x, low.y, high.y, b[0], b[1]);
            multiply_tile<T>(lane, sums[m][t], low.z, high.z, low.w, high.w, b[2], b[3]);
          }
        }
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
for (int m = 0; m < ROWS / 16; m++) {
#pragma unroll
  for (int half_tile = 0; half_tile < 2; half_tile++) {
    int r = 16 * m + 8 * half_tile + column;
    if (r < rows) {
      uint pair = order[start + r];
      device T* to = y + size_t(GATED ? uint(start + r) : pair) * N;
      float weight = GATED ? float(weights[pair]) : 1.0f;
#pragma unroll
      for (int t = 0; t < TILES / MATRICES; t++) {
        int n = first + 8 * t + 2 * quarter;
        float a = sums[m][t][2 * half_tile], b = sums[m][t][2 * half_tile + 1];
        if (GATED) {
          const thread float* up = sums[m][t + TILES / 2] + 2 * half_tile;
          a = a / (1 + metal::exp(-a)) * up[0] * weight;
          b = b / (1 + metal::exp(-b)) * up[1] * weight;
        }
        if (n < N) *(device uint*)(to + n) = two<T>(a, b);
      }
    }
  }
}
