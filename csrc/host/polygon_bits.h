// Polygons drawn on whole images, exactly as COCO's rleFrPoly draws them, in memory that is bounded
// by the image: one bit per pixel of the columns and rows that a ring may cover.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

#include "host/mask_boxes.h"
#include "mask_targets/mask_targets.h"

namespace mrcnn {

// The pixels inside a ring: bit b of word w of a column is row 64 * (first_word + w) + b.
class PolygonBits {
 public:
  // Draws every `step`-th column of a ring of n corners xy (n, 2) in file pixels, on an image of
  // height x width.
  void draw(const double* xy, int64_t n, int32_t height, int32_t width, int32_t step = 1) {
    step_ = step;
    place(xy, n, height, width);
    for (int64_t i = 0, j = n - 1; i < n; j = i++)
      toggle(x_[j], y_[j], x_[i], y_[i], height, width);
    for (int64_t c = 0; c < columns_; ++c) fill_down(&bits_[c * words_]);
  }

  // The box of the pixels; empty if there are none.
  Bounds bounds() const {
    Bounds box;
    for (int64_t c = 0; c < columns_; ++c) {
      const uint64_t* column = &bits_[c * words_];
      int64_t top = 0, bottom = words_ - 1;
      while (top < words_ && !column[top]) ++top;
      if (top == words_) continue;
      while (!column[bottom]) --bottom;
      const double x = double(first_column_ + c * step_);
      box.add(x, double(row(top) + std::countr_zero(column[top])));
      box.add(x + 1, double(row(bottom) + 64 - std::countl_zero(column[bottom])));
    }
    return box;
  }

  // Appends the positions, counted down the columns of the image, at which the mask changes. All
  // columns must be drawn.
  void edges(int64_t height, std::vector<int64_t>& positions) const {
    for (int64_t c = 0; c < columns_; ++c) {
      uint64_t above = 0;
      for (int64_t w = 0; w < words_; ++w) {
        const uint64_t inside = bits_[c * words_ + w];
        for (uint64_t change = inside ^ (inside << 1 | above); change; change &= change - 1)
          positions.push_back((first_column_ + c) * height + row(w) + std::countr_zero(change));
        above = inside >> 63;
      }
      if (above) positions.push_back((first_column_ + c) * height + row(words_));
    }
  }

 private:
  int64_t row(int64_t word) const { return 64 * (first_word_ + word); }

  // Rounds the corners to the grid, and clears the bits that the ring may reach.
  void place(const double* xy, int64_t n, int32_t height, int32_t width) {
    x_.resize(n), y_.resize(n);
    for (int64_t i = 0; i < n; ++i)
      x_[i] = grid_point(xy[2 * i]), y_[i] = grid_point(xy[2 * i + 1]);
    columns_ = words_ = 0;
    if (n == 0) return;
    const auto [left, right] = std::minmax_element(x_.begin(), x_.end());
    const auto [top, bottom] = std::minmax_element(y_.begin(), y_.end());
    first_column_ = first_column(*left);
    columns_ = std::max(0, (last_column(*right, width) - first_column_) / step_ + 1);
    // An edge toggles a row between those of its ends, or the one after the last.
    const auto word = [&](double y) {
      return int32_t(std::clamp(y / 5, 0.0, double(height))) / 64;
    };
    first_word_ = word(*top - 5.0);
    words_ = word(*bottom + 10.0) - first_word_ + 1;
    bits_.assign(columns_ * words_, 0);
  }

  void toggle(int32_t x1, int32_t y1, int32_t x2, int32_t y2, int32_t height, int32_t width) {
    const int32_t last = last_column(std::max(x1, x2), width);
    const int32_t first = first_column(std::min(x1, x2)) - first_column_;
    int32_t column = first_column_ + (first + step_ - 1) / step_ * step_;
    if (column > last) return;
    const PolygonEdge edge = polygon_edge(x1, y1, x2, y2, edge_slope(x1, y1, x2, y2));
    int64_t begin = int64_t{(column - first_column_) / step_} * words_ - first_word_;
    for (; column <= last; column += step_, begin += words_) {
      const int32_t at = toggled_row(edge, column, height);
      bits_[begin + at / 64] ^= uint64_t{1} << at % 64;
    }
  }

  // Makes each bit the parity of the bits above it and itself.
  void fill_down(uint64_t* column) const {
    uint64_t above = 0;
    for (int64_t w = 0; w < words_; ++w) {
      for (int shift = 1; shift < 64; shift *= 2) column[w] ^= column[w] << shift;
      column[w] ^= above;
      above = uint64_t(int64_t(column[w]) >> 63);
    }
  }

  int32_t step_ = 1, first_column_ = 0, first_word_ = 0;
  int64_t columns_ = 0, words_ = 0;
  std::vector<int32_t> x_, y_;  // corners on the grid
  std::vector<uint64_t> bits_;
};

// Returns the positions at which the union of rings changes; ring q has the corners from
// ring_start[q] to ring_start[q + 1].
inline std::vector<int64_t> polygon_edges(const double* xy, const int64_t* ring_start,
                                          int64_t rings, int32_t height, int32_t width) {
  PolygonBits bits;
  std::vector<int64_t> all, ring, merged;
  for (int64_t q = 0; q < rings; ++q) {
    bits.draw(xy + 2 * ring_start[q], ring_start[q + 1] - ring_start[q], height, width);
    ring.clear();
    bits.edges(height, ring);
    if (all.empty()) {
      all.swap(ring);
      continue;
    }
    merged.clear();
    size_t a = 0, b = 0;
    bool inside = false;  // of the union
    while (a < all.size() || b < ring.size()) {
      const int64_t at =
          std::min(a < all.size() ? all[a] : INT64_MAX, b < ring.size() ? ring[b] : INT64_MAX);
      while (a < all.size() && all[a] == at) ++a;
      while (b < ring.size() && ring[b] == at) ++b;
      if (const bool now = a % 2 || b % 2; now != inside) merged.push_back(at), inside = now;
    }
    all.swap(merged);
  }
  // Columns that are filled to the bottom and from the top touch.
  std::vector<int64_t> apart;
  for (const int64_t at : all)
    if (!apart.empty() && apart.back() == at)
      apart.pop_back();
    else
      apart.push_back(at);
  return apart;
}

}  // namespace mrcnn
