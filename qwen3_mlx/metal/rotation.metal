// The cosines, then the sines, of a token's angles, times the factor that ends the table. They depend
// on the position alone, so a step makes them once for all of its layers. One simdgroup.
float position = float(counts[0] + counts[1]);
for (uint i = thread_index_in_simdgroup; i < HALF; i += 32) {
  float angle = position * table[i];
  turns[i] = metal::precise::cos(angle) * table[HALF];
  turns[HALF + i] = metal::precise::sin(angle) * table[HALF];
}
