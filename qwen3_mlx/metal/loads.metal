template <typename T>
inline void load4(const device T* from, thread float* x) {
  vec<T, 4> four = *(const device vec<T, 4>*)from;
  x[0] = float(four.x);
  x[1] = float(four.y);
  x[2] = float(four.z);
  x[3] = float(four.w);
}
