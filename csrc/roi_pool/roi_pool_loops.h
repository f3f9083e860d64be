// Loop of RoIPool over channels_last maps. Included by common/each_isa.h.

// Indices as wide as the values beside them.
template <typename A>
using Index = std::conditional_t<std::is_same_v<A, double>, int64_t, int32_t>;
template <typename A>
using IndexVec = std::conditional_t<std::is_same_v<A, double>, DoubleIndexVec, FloatIndexVec>;

// Finds the largest value of each channel over the cells of a bin and, with kArgmax, the cell of
// the map that it came from. NaN is never the largest.
template <int kVectors, bool kArgmax, typename T, typename A>
inline void max_bin(const T* map, int64_t width, int64_t channels, const CellRange& rows,
                    const CellRange& columns, T* out, int32_t* argmax) {
  Vec<A> most[kVectors];
  IndexVec<A> from[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    most[v] = -std::numeric_limits<A>::infinity() - Vec<A>{};
    from[v] = IndexVec<A>{} - 1;
  }
  for (int64_t y = rows.begin; y < rows.end; ++y)
    for (int64_t x = columns.begin; x < columns.end; ++x) {
      const T* cell = map + (y * width + x) * channels;
      const IndexVec<A> here = IndexVec<A>{} + Index<A>(y * width + x);
      for (int v = 0; v < kVectors; ++v) {
        const Vec<A> value = load(cell + v * kLanes<A>);
        const auto greater = value > most[v];
        most[v] = greater ? value : most[v];
        if constexpr (kArgmax) from[v] = greater ? here : from[v];
      }
    }
  for (int v = 0; v < kVectors; ++v) {
    store(out + v * kLanes<A>, most[v]);
    if constexpr (!kArgmax) continue;
    if constexpr (sizeof(from[v]) == sizeof(int32_t) * kLanes<A>)
      std::memcpy(argmax + v * kLanes<A>, &from[v], sizeof(from[v]));
    else
      for (int64_t i = 0; i < kLanes<A>; ++i) argmax[v * kLanes<A> + i] = int32_t(from[v][i]);
  }
}

// Pools one channel of one bin, for the remaining channels.
template <typename T, typename A>
inline void max_channel(const T* map, int64_t width, int64_t channels, const CellRange& rows,
                        const CellRange& columns, T* out, int32_t* argmax) {
  A most = -std::numeric_limits<A>::infinity();
  int32_t from = -1;
  for (int64_t y = rows.begin; y < rows.end; ++y)
    for (int64_t x = columns.begin; x < columns.end; ++x) {
      const A value = A(map[(y * width + x) * channels]);
      if (value > most) most = value, from = int32_t(y * width + x);
    }
  *out = T(most);
  if (argmax) *argmax = from;
}

// map (height, width, channels) -> one bin of all channels; argmax may be nullptr.
template <typename T, typename A>
void max_pool_bin(const T* map, int64_t width, int64_t channels, const CellRange& rows,
                  const CellRange& columns, A, T* out, int32_t* argmax) {
  const auto vectors = [&]<int kVectors>(int64_t c) {
    if (argmax)
      max_bin<kVectors, true, T, A>(map + c, width, channels, rows, columns, out + c, argmax + c);
    else
      max_bin<kVectors, false, T, A>(map + c, width, channels, rows, columns, out + c, nullptr);
  };
  int64_t c = 0;
  for (; c + 4 * kLanes<A> <= channels; c += 4 * kLanes<A>) vectors.template operator()<4>(c);
  for (; c + kLanes<A> <= channels; c += kLanes<A>) vectors.template operator()<1>(c);
  for (; c < channels; ++c)
    max_channel<T, A>(map + c, width, channels, rows, columns, out + c,
                      argmax ? argmax + c : nullptr);
}
