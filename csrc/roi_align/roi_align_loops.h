// Loops of RoIAlign over channels_last maps, in which a tap is a contiguous vector of channels.
// Included by common/each_isa.h.

// Pools one bin, for kVectors vectors of channels, which stay in registers while taps are summed.
template <int kVectors, typename T, typename A>
inline void pool_bin(const T* map, int64_t row_stride, int64_t channels, const Taps<A>& rows,
                     const Taps<A>& columns, bool past_caches, T* out) {
  Vec<A> sum[kVectors] = {};
  for (const auto& row : rows)
    for (const auto& column : columns) {
      const T* cell = map + row.cell * row_stride + column.cell * channels;
      const Vec<A> weight = row.weight * column.weight - Vec<A>{};
      for (int v = 0; v < kVectors; ++v)
        sum[v] = multiply_add(weight, load(cell + v * kLanes<A>), sum[v]);
    }
  if (past_caches)
    for (int v = 0; v < kVectors; ++v) stream(out + v * kLanes<A>, sum[v]);
  else
    for (int v = 0; v < kVectors; ++v) store(out + v * kLanes<A>, sum[v]);
}

// Pools one channel of one bin, for the remaining channels.
template <typename T, typename A>
inline void pool_channel(const T* map, int64_t row_stride, int64_t channels, const Taps<A>& rows,
                         const Taps<A>& columns, T* out) {
  A sum = 0;
  for (const auto& row : rows)
    for (const auto& column : columns)
      sum += row.weight * column.weight * A(map[row.cell * row_stride + column.cell * channels]);
  *out = T(sum);
}

// Prefetches the first lines of the rows that bin row `next` reads and `done` did not. The
// processor prefetches along a row by itself, but cannot predict the start of the next one.
template <typename T, typename A>
inline void prefetch_rows(const T* map, int64_t row_stride, int64_t channels, const Taps<A>& done,
                          const Taps<A>& next, const Taps<A>& columns) {
  constexpr int64_t kLine = 64, kLines = 3;
  if (columns.empty()) return;
  for (const auto& row : next) {
    if (!done.empty() && row.cell <= done.back().cell) continue;
    const T* cell = map + row.cell * row_stride + columns.front().cell * channels;
    for (int64_t i = 0; i < kLines; ++i)
      __builtin_prefetch(reinterpret_cast<const char*>(cell) + i * kLine, 0, 2);
  }
}

// map (height, width, channels) -> out (bins_h, bins_w, channels), stored past the caches if
// requested.
template <typename T, typename A>
void pool(const T* map, int64_t width, int64_t channels, const AxisTaps<A>& rows,
          const AxisTaps<A>& columns, bool past_caches, T* out) {
  const int64_t row_stride = width * channels;
  for (int64_t by = 0; by < rows.bins(); ++by, out += columns.bins() * channels) {
    const Taps<A> row_taps = rows.of_bin(by);
    if (by + 1 < rows.bins())
      prefetch_rows(map, row_stride, channels, row_taps, rows.of_bin(by + 1), columns.of_bin(0));
    // All bins of a row before the next channels: neighbours share cells, which are in the L1
    // cache.
    const auto along_row = [&](int64_t c, auto&& pool_one) {
      for (int64_t bx = 0; bx < columns.bins(); ++bx)
        pool_one(map + c, columns.of_bin(bx), out + bx * channels + c);
    };
    const auto vectors = [&]<int kVectors>() {
      return [&](const T* cells, const Taps<A>& column_taps, T* bin) {
        pool_bin<kVectors>(cells, row_stride, channels, row_taps, column_taps, past_caches, bin);
      };
    };
    int64_t c = 0;
#if VEC_BYTES == 64
    for (; c + 16 * kLanes<A> <= channels; c += 16 * kLanes<A>)
      along_row(c, vectors.template operator()<16>());
#endif
    for (; c + 8 * kLanes<A> <= channels; c += 8 * kLanes<A>)
      along_row(c, vectors.template operator()<8>());
    for (; c + 4 * kLanes<A> <= channels; c += 4 * kLanes<A>)
      along_row(c, vectors.template operator()<4>());
    for (; c + kLanes<A> <= channels; c += kLanes<A>)
      along_row(c, vectors.template operator()<1>());
    for (; c < channels; ++c)
      along_row(c, [&](const T* cells, const Taps<A>& column_taps, T* bin) {
        pool_channel(cells, row_stride, channels, row_taps, column_taps, bin);
      });
  }
  if (past_caches) stream_fence();
}

// The transpose of `pool`: adds grad (bins_h, bins_w, channels) to some rows of the map.
template <typename T, typename A>
void scatter(const T* grad, int64_t width, int64_t channels, const CellRange& map_rows,
             const AxisTaps<A>& rows, const AxisTaps<A>& columns, A* map) {
  for (int64_t by = 0; by < rows.bins(); ++by)
    for (const auto& row : rows.of_bin(by)) {
      if (!map_rows.has(row.cell)) continue;
      const T* bin = grad + by * columns.bins() * channels;
      for (int64_t bx = 0; bx < columns.bins(); ++bx, bin += channels)
        for (const auto& column : columns.of_bin(bx)) {
          A* cell = map + (row.cell * width + column.cell) * channels;
          const A weight = row.weight * column.weight;
          const Vec<A> weights = weight - Vec<A>{};
          int64_t c = 0;
          for (; c + kLanes<A> <= channels; c += kLanes<A>)
            store(cell + c, multiply_add(weights, load(bin + c), load(cell + c)));
          for (; c < channels; ++c) cell[c] += weight * A(bin[c]);
        }
    }
}

// Clears cells; past the caches, lines are not read before they are written.
template <typename A>
void clear(A* begin, A* end, bool past_caches) {
  if (past_caches) {
    for (; begin < end; begin += kLanes<A>) stream(begin, Vec<A>{});
    stream_fence();
  } else {
    std::fill(begin, end, A(0));
  }
}
