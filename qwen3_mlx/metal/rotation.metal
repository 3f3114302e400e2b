// The cosines, then the sines, of each row's angles, times the factor that ends the table. They depend
// on the position alone, so a step makes them once for all of its layers. A simdgroup a row. The last
// row of a sequence tells its next counts.
uint row = threadgroup_position_in_grid.x;
int seq = ROWED ? rows[2 * row] : 0;
float position = float(counts[2 * seq] + counts[2 * seq + 1] + (ROWED ? rows[2 * row + 1] : 0));
for (uint i = thread_index_in_simdgroup; i < HALF; i += 32) {
  float angle = position * table[i];
  turns[2 * row * HALF + i] = metal::precise::cos(angle) * table[HALF];
  turns[(2 * row + 1) * HALF + i] = metal::precise::sin(angle) * table[HALF];
}
#ifdef HAS_following
if (thread_index_in_simdgroup == 0 &&
    (row + 1 == threadgroups_per_grid.x || rows[2 * row + 2] != seq)) {
  following[2 * seq] = counts[2 * seq];
  following[2 * seq + 1] = counts[2 * seq + 1] + rows[2 * row + 1] + 1;
}
#endif
