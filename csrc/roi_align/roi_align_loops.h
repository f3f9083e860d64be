// The loops of RoIAlign over channels_last maps, where a tap is one contiguous vector of channels.
// Included by common/each_isa.h.

// One bin of kVectors vectors of channels, which stay in registers while its taps are summed.
template <int kVectors, typename T, typename A>
inline void pool_bin(const T* map, int64_t row_stride, int64_t channels, const Taps<A>& rows,
                     const Taps<A>& columns, T* out) {
  Vec<A> sum[kVectors] = {};
  for (const auto& row : rows)
    for (const auto& column : columns) {
      const T* cell = map + row.cell * row_stride + column.cell * channels;
      const Vec<A> weight = row.weight * column.weight - Vec<A>{};
      for (int v = 0; v < kVectors; ++v)
        sum[v] = multiply_add(weight, load(cell + v * kLanes<A>), sum[v]);
    }
  for (int v = 0; v < kVectors; ++v) store(out + v * kLanes<A>, sum[v]);
}

// One channel of one bin, for what is left over.
template <typename T, typename A>
inline void pool_channel(const T* map, int64_t row_stride, int64_t channels, const Taps<A>& rows,
                         const Taps<A>& columns, T* out) {
  A sum = 0;
  for (const auto& row : rows)
    for (const auto& column : columns)
      sum += row.weight * column.weight * A(map[row.cell * row_stride + column.cell * channels]);
  *out = T(sum);
}

// map (height, width, channels) -> out (bins_h, bins_w, channels).
template <typename T, typename A>
void pool(const T* map, int64_t width, int64_t channels, const AxisTaps<A>& rows,
          const AxisTaps<A>& columns, T* out) {
  const auto walk = [&](int64_t c, auto&& pool_one) {
    for (int64_t by = 0; by < rows.bins(); ++by)
      for (int64_t bx = 0; bx < columns.bins(); ++bx)
        pool_one(map + c, width * channels, channels, rows.of_bin(by), columns.of_bin(bx),
                 out + (by * columns.bins() + bx) * channels + c);
  };
  // All bins before the next channels: neighbours share cells, which are still in the cache.
  int64_t c = 0;
  for (; c + 8 * kLanes<A> <= channels; c += 8 * kLanes<A>)
    walk(c, [](auto... args) { pool_bin<8>(args...); });
  for (; c + kLanes<A> <= channels; c += kLanes<A>)
    walk(c, [](auto... args) { pool_bin<1>(args...); });
  for (; c < channels; ++c) walk(c, [](auto... args) { pool_channel(args...); });
}

// The transpose of `pool` for channels [first, last): adds grad (bins_h, bins_w, channels) to map.
template <typename T, typename A>
void scatter(const T* grad, int64_t width, int64_t channels, int64_t first, int64_t last,
             const AxisTaps<A>& rows, const AxisTaps<A>& columns, A* map) {
  for (int64_t by = 0; by < rows.bins(); ++by)
    for (int64_t bx = 0; bx < columns.bins(); ++bx, grad += channels)
      for (const auto& row : rows.of_bin(by))
        for (const auto& column : columns.of_bin(bx)) {
          A* cell = map + (row.cell * width + column.cell) * channels;
          const A weight = row.weight * column.weight;
          const Vec<A> weights = weight - Vec<A>{};
          int64_t c = first;
          for (; c + kLanes<A> <= last; c += kLanes<A>)
            store(cell + c, multiply_add(weights, load(grad + c), load(cell + c)));
          for (; c < last; ++c) cell[c] += weight * A(grad[c]);
        }
}
