// Targets from RLE: the coverage of each bin, pooled from the runs without drawing the mask.
#pragma once

#include <algorithm>
#include <vector>

#include "mask_targets/bin_samples.h"
#include "mask_targets/mask_targets.h"

namespace mrcnn {

// The weights of the cells of an axis in the average of each bin.
class BinWeights {
 public:
  void build(double low, double high, int64_t bins, int64_t cells) {
    bins_.clear();
    before_.clear();
    for (int64_t b = 0; b < bins; ++b) {
      const BinSamples samples = bin_samples(low, high, bins, b, cells);
      const Bin bin{samples.begin, samples.end, int64_t(before_.size())};
      for (int64_t cell = bin.begin; cell <= bin.end; ++cell)
        before_.push_back(samples.weight_before(cell));
      bins_.push_back(bin);
    }
  }

  // The range of cells that any bin reads.
  int64_t begin() const {
    for (const Bin& bin : bins_)
      if (bin.end) return bin.begin;
    return 0;
  }
  int64_t end() const {
    int64_t last = 0;
    for (const Bin& bin : bins_) last = std::max(last, bin.end);
    return last;
  }

  int64_t begin(int64_t b) const { return bins_[b].begin; }
  int64_t end(int64_t b) const { return bins_[b].end; }

  // The weight of the cells from `begin` to `end` in bin b.
  double weight(int64_t b, int64_t begin, int64_t end) const {
    const Bin& bin = bins_[b];
    begin = std::max(begin, bin.begin), end = std::min(end, bin.end);
    if (begin >= end) return 0;
    const double* before = before_.data() + bin.offset - bin.begin;
    return before[end] - before[begin];
  }

 private:
  struct Bin {
    int64_t begin, end;  // cells with weight
    int64_t offset;      // before_[offset + i]: weight of the cells before begin + i
  };
  std::vector<Bin> bins_;
  std::vector<double> before_;
};

// Targets from RLE masks; holds the scratch of one thread.
class RunTargets {
 public:
  // Writes the target for `box` (x1, y1, x2, y2 in file pixels; x1 > x2 reads from right to left)
  // and a mask of height x width, given as n runs down the columns.
  void write(const int32_t* counts, int64_t n, int64_t height, int64_t width,
             const Box<double>& box, int64_t size, float* out) {
    rows_.build(std::min(box.y1, box.y2), std::max(box.y1, box.y2), size, height);
    columns_.build(std::min(box.x1, box.x2), std::max(box.x1, box.x2), size, width);
    cover_runs(counts, n, height, size);
    average_columns(size);
    for (int64_t y = 0; y < size; ++y)
      for (int64_t x = 0; x < size; ++x) {
        const int64_t row = box.y1 > box.y2 ? size - 1 - y : y;
        const int64_t column = box.x1 > box.x2 ? size - 1 - x : x;
        *out++ = is_foreground(cover_[column * size + row]);
      }
  }

 private:
  // column_cover_[(x - first) * size + bin]: the foreground of column x in each bin of rows.
  void cover_runs(const int32_t* counts, int64_t n, int64_t height, int64_t size) {
    const int64_t first = columns_.begin(), last = columns_.end();
    column_cover_.assign((last - first) * size, 0.0);
    int64_t end = 0;
    for (int64_t i = 0; i < n && end < last * height; ++i) {
      const int64_t begin = end;
      end += std::max(counts[i], 0);
      if (i % 2 == 0 || begin == end) continue;
      for (int64_t x = std::max(begin / height, first); x < last && x * height < end; ++x) {
        const int64_t top = begin - x * height, bottom = end - x * height;
        double* cover = column_cover_.data() + (x - first) * size;
        for (int64_t bin = 0; bin < size; ++bin) cover[bin] += rows_.weight(bin, top, bottom);
      }
    }
  }

  // cover_[column_bin * size + row_bin]
  void average_columns(int64_t size) {
    cover_.assign(size * size, 0.0);
    for (int64_t bin = 0; bin < size; ++bin)
      for (int64_t x = columns_.begin(bin); x < columns_.end(bin); ++x) {
        const double weight = columns_.weight(bin, x, x + 1);
        const double* cover = column_cover_.data() + (x - columns_.begin()) * size;
        for (int64_t row = 0; row < size; ++row) cover_[bin * size + row] += weight * cover[row];
      }
  }

  BinWeights rows_, columns_;
  std::vector<double> column_cover_, cover_;
};

}  // namespace mrcnn
