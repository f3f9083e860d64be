// Loops that draw polygons. Included by common/each_isa.h.

// Builds the edges of a ring of n corners xy (n, 2) in file pixels.
inline void build_edges(const double* xy, int64_t n, const AxisTransform* transform,
                        const TargetAxis* axis, int32_t size, RingEdges& edges) {
  edges.resize(n);
  const AxisTransform transform_x = transform[0], transform_y = transform[1];
  const TargetAxis axis_x = axis[0], axis_y = axis[1];
  int32_t *x = edges.x.data(), *y = edges.y.data();
  for (int64_t i = 0; i < n; ++i) {
    x[i] = grid_point(axis_x.position(transform_x.to_image(xy[2 * i])));
    y[i] = grid_point(axis_y.position(transform_y.to_image(xy[2 * i + 1])));
  }
  x[n] = x[0], y[n] = y[0];
  int32_t *first = edges.first_column.data(), *last = edges.last_column.data();
  for (int64_t i = 0; i < n; ++i) {
    first[i] = first_column(std::min(x[i], x[i + 1]));
    last[i] = last_column(std::max(x[i], x[i + 1]), size);
  }
  double* slope = edges.slope.data();
  for (int64_t i = 0; i < n; ++i) slope[i] = edge_slope(x[i], y[i], x[i + 1], y[i + 1]);
  uint8_t* wide = edges.wide.data();
  for (int64_t i = 0; i < n; ++i) wide[i] = is_wide(x[i], y[i], x[i + 1], y[i + 1]);
}

// Columns that are toggled together; few, because most edges pass one or two.
constexpr int64_t kColumns = VEC_BYTES < 32 ? 2 : 4;
static_assert(kColumns <= TargetBits::kGroup);
typedef double ColumnVec __attribute__((vector_size(8 * kColumns)));
typedef int32_t RowVec __attribute__((vector_size(4 * kColumns)));
typedef uint32_t BitsVec __attribute__((vector_size(4 * kColumns)));

// The functions of mask_targets.h for several columns at once; results are bit-identical.

// For values that fit an int32.
inline ColumnVec cut(const ColumnVec& v) {
#if VEC_BYTES >= 32
  return ColumnVec(_mm256_round_pd(__m256d(v), _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC));
#else
  return __builtin_convertvector(__builtin_convertvector(v, RowVec), ColumnVec);
#endif
}

inline ColumnVec across(const PolygonEdge& edge, const ColumnVec& step) {
  return cut((edge.wide ? edge.y : edge.x) + edge.slope * step + 0.5);
}

inline ColumnVec upper_point(const PolygonEdge& edge, const ColumnVec& line) {
  if (edge.wide) return smaller(across(edge, line - edge.x), across(edge, line - edge.x + 1.0));
  const ColumnVec zero{}, solved = (line - edge.x + 0.5) / edge.slope;
  ColumnVec step = larger(cut(smaller(solved, zero + INT32_MAX)), zero + 1.0);
  while (true) {
    const ColumnVec x = across(edge, step);
    const auto near = edge.slope > 0 ? x <= line : x > line;
    auto any_near = near[0];
    for (int64_t i = 1; i < kColumns; ++i) any_near |= near[i];
    if (!any_near) return edge.y + step - 1.0;
    step = near ? step + 1.0 : step;
  }
}

// Toggles the row of an edge in each column from `first` to `last`. Lanes after `last` toggle rows
// from `size` on. That does no harm: bits are only carried down, and these rows are never read.
inline void toggle_columns(const PolygonEdge& edge, int32_t first, int32_t last, int32_t size,
                           TargetBits& bits) {
  ColumnVec lane;
  for (int64_t i = 0; i < kColumns; ++i) lane[i] = double(i);
  const ColumnVec zero{}, end = zero + (5.0 * size + 2.0);
  for (; first <= last; first += kColumns) {
    const ColumnVec column = double(first) + lane, passed = smaller(column, zero + double(last));
    const ColumnVec below = larger(upper_point(edge, 5.0 * passed + 2.0) + 2.0, zero);
    const ColumnVec height = column == passed ? smaller(below, end) : end;
    const RowVec row = __builtin_convertvector(height * 0.2, RowVec);
    for (int32_t word = 0; word < (size + 31) / 32; ++word) {
      uint32_t* toggled = bits.toggled[word] + first;
      BitsVec before;
      std::memcpy(&before, toggled, sizeof before);
      before ^= BitsVec(row >> 5 == word) & (1u << BitsVec(row & 31));
      std::memcpy(toggled, &before, sizeof before);
    }
  }
}

// Adds the inside of a ring.
inline void draw_ring(const double* xy, int64_t n, const AxisTransform* transform,
                      const TargetAxis* axis, int32_t size, RingEdges& edges, TargetBits& bits) {
  build_edges(xy, n, transform, axis, size, edges);
  for (int64_t word = 0; word < (size + 31) / 32; ++word) std::fill_n(bits.toggled[word], size, 0u);
  const auto draw = [&](int64_t i) {
    const PolygonEdge edge =
        polygon_edge(edges.x[i], edges.y[i], edges.x[i + 1], edges.y[i + 1], edges.slope[i]);
    toggle_columns(edge, edges.first_column[i], edges.last_column[i], size, bits);
  };
  // Wide edges first, then the others: a branch on the kind of edge would be mispredicted.
  int64_t wide_end = 0, others_begin = n;
  for (int64_t i = 0; i < n; ++i) {
    const bool passes = edges.first_column[i] <= edges.last_column[i], wide = edges.wide[i];
    edges.order[wide_end] = edges.order[others_begin - 1] = int32_t(i);
    wide_end += passes & wide;
    others_begin -= passes & !wide;
  }
  for (int64_t k = 0; k < wide_end; ++k) draw(edges.order[k]);
  for (int64_t k = others_begin; k < n; ++k) draw(edges.order[k]);
  uint32_t above[kMaxTargetSize] = {};  // all bits set if the row above the word is inside
  for (int64_t word = 0; word < (size + 31) / 32; ++word)
    for (int64_t c = 0; c < size; ++c) {
      const uint32_t inside = prefix_xor(bits.toggled[word][c]) ^ above[c];
      bits.inside[word][c] |= inside;
      above[c] = uint32_t(int32_t(inside) >> 31);
    }
}

inline void write_target(const TargetBits& bits, int64_t size, float* out) {
  for (int64_t row = 0; row < size; ++row, out += size)
    for (int64_t c = 0; c < size; ++c)
      out[c] = float(int32_t(bits.inside[row / 32][c] >> row % 32 & 1));
}
