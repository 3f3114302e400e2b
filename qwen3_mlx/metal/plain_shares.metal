// A lane's share of a row as it is kept, in numbers of T; scales and biases are not read. `fetch` only
// sets out for it, so that more can be done before `open`.
template <typename T, int BITS, int GROUP, typename Part>
struct Kept {
  static constant constexpr const int PER = Part::PER;
  static constant constexpr const int EACH = 32 / BITS;  // numbers of a word
  static constant constexpr const int WORDS = PER > EACH ? PER / EACH : 1;

  uint words[WORDS];

  void fetch(const device T* rows, const device T*, const device T*, uint row, uint own) {
    const device uint* from =
        (const device uint*)rows + row * (Part::WHOLE / EACH) + own * PER / EACH;
    if (WORDS % 4 == 0) {
#pragma unroll
      for (int i = 0; i < WORDS; i += 4) {
        uint4 four = ((const device uint4*)from)[i / 4];
        words[i] = four.x;
        words[i + 1] = four.y;
        words[i + 2] = four.z;
        words[i + 3] = four.w;
      }
    } else {
#pragma unroll
      for (int i = 0; i < WORDS; i++) words[i] = from[i];
    }
  }
  void open(thread Part& part, uint own) const {
#pragma unroll
    for (int j = 0; j < PER; j++) {
      uint word = words[j / EACH] >> (PER < EACH ? own * PER % EACH * BITS : 0);
      part.x[j] = float(((const thread T*)&word)[j % EACH]);
    }
  }
};
