// RMSNorm of every query and key head, then rotation of its halves; values are only laid out.
// One simdgroup a head and token.
uint lane = thread_index_in_simdgroup;
uint head = threadgroup_position_in_grid.x * SIMDS + simdgroup_index_in_threadgroup;
if (head >= H + 2 * KV) return;
uint token = threadgroup_position_in_grid.y;

bool is_query = head < H;
bool is_value = head >= H + KV;
uint own = is_query ? head : is_value ? head - H - KV : head - H;
Head<T, D> x;
x.load(qkv + (size_t(token) * (H + 2 * KV) + head) * D, lane);
if (!is_value)
  x.norm_and_turn(is_query ? q_norm : k_norm, as_type<float>(EPS), table, float(offset[0] + int(token)), lane);
x.store((is_query ? q : is_value ? v : k) + (size_t(own) * L + token) * D, lane);
