// Masks of boxes pasted into the image, as pixels or straight as run lengths.
#include <algorithm>
#include <cstring>
#include <tuple>

#include "common/tensor.h"
#include "paste_masks/paste_masks.h"

namespace mrcnn {
namespace {

// The pixels of one image axis that read the mask, and what they read.
class PasteSpan {
 public:
  void build(const PasteAxis& axis, int64_t pixels) {
    begin_ = first_pixel(axis, -1.0f, pixels);
    end_ = first_pixel(axis, float(axis.cells), pixels);
    taps_.clear();
    for (int64_t pixel = begin_; pixel < end_; ++pixel)
      taps_.push_back(paste_tap(axis.coordinate(pixel)));
  }

  int64_t begin() const { return begin_; }
  int64_t end() const { return end_; }
  const PasteTap& tap(int64_t pixel) const { return taps_[pixel - begin_]; }

 private:
  int64_t begin_ = 0, end_ = 0;
  std::vector<PasteTap> taps_;
};

// The geometry of one box in the image.
struct Paste {
  PasteSpan rows, columns;

  bool build(const float* box_data, int64_t cells, int64_t height, int64_t width) {
    const Box<float> box = load_box(box_data);
    if (!can_paste(box)) return false;
    rows.build({box.y1, box.y2 - box.y1, cells}, height);
    columns.build({box.x1, box.x2 - box.x1, cells}, width);
    return true;
  }
};

// Interpolates `count` pairs of knots.
MULTIVERSION void lerp_all(const float* a, const float* b, float fraction, int64_t count,
                           float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = lerp(a[i], b[i], fraction);
}

MULTIVERSION void threshold_row(const float* a, const float* b, float fraction, float threshold,
                                int64_t count, bool* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = lerp(a[i], b[i], fraction) >= threshold;
}

// Pixels of one mask; holds the scratch of one thread.
class DensePaste {
 public:
  // `out` (height, width) is all false before.
  void write(const float* mask, int64_t cells, const Paste& paste, float threshold, int64_t width,
             bool* out) {
    const int64_t columns = paste.columns.end() - paste.columns.begin();
    // The mask's rows at the columns of the image, with a row of zeros above and below.
    knots_.assign((cells + 2) * columns, 0.0f);
    for (int64_t y = 0; y < cells; ++y) {
      const float* row = mask + y * cells;  // knot k is cell k - 1
      for (int64_t i = 0; i < columns; ++i) {
        const PasteTap tap = paste.columns.tap(paste.columns.begin() + i);
        knots_[(y + 1) * columns + i] = lerp(tap.knot > 0 ? row[tap.knot - 1] : 0.0f,
                                             tap.knot < cells ? row[tap.knot] : 0.0f, tap.fraction);
      }
    }
    for (int64_t y = paste.rows.begin(); y < paste.rows.end(); ++y) {
      const PasteTap tap = paste.rows.tap(y);
      const float* above = knots_.data() + tap.knot * columns;
      threshold_row(above, above + columns, tap.fraction, threshold, columns,
                    out + y * width + paste.columns.begin());
    }
  }

 private:
  std::vector<float> knots_;
};

// Run lengths of one mask without its pixels; holds the scratch of one thread.
//
// Between two knots the values of a column are monotone, so its pixels there change side at most
// once, and not at all if the first and the last are on one side.
class RunPaste {
 public:
  // Appends the runs down the columns, background first.
  void write(const float* mask, int64_t cells, const Paste& paste, float threshold, int64_t height,
             int64_t width, std::vector<int32_t>& counts) {
    cells_ = cells;
    transpose(mask);
    build_segments(paste.rows);
    changes_.clear();
    for (int64_t x = paste.columns.begin(); x < paste.columns.end(); ++x)
      add_column(paste.columns.tap(x), paste.rows, threshold, x * height);
    int64_t last = 0;
    for (const int64_t change : changes_) {
      if (change == height * width) break;
      counts.push_back(int32_t(change - last));
      last = change;
    }
    counts.push_back(int32_t(height * width - last));
  }

 private:
  // The rows of the image that lie between two knots.
  struct Segment {
    int64_t knot, begin, end;
  };

  void transpose(const float* mask) {
    const int64_t knots = cells_ + 2;
    columns_.assign(knots * knots, 0.0f);
    for (int64_t y = 0; y < cells_; ++y)
      for (int64_t x = 0; x < cells_; ++x) columns_[(x + 1) * knots + y + 1] = mask[y * cells_ + x];
    profile_.resize(knots);
  }

  void build_segments(const PasteSpan& rows) {
    segments_.clear();
    first_fraction_.assign(cells_ + 1, 0.0f);
    last_fraction_.assign(cells_ + 1, 0.0f);
    first_side_.resize(cells_ + 1);
    last_side_.resize(cells_ + 1);
    for (int64_t y = rows.begin(); y < rows.end(); ++y) {
      const PasteTap tap = rows.tap(y);
      if (segments_.empty() || segments_.back().knot != tap.knot) {
        segments_.push_back({tap.knot, y, y});
        first_fraction_[tap.knot] = tap.fraction;
      }
      segments_.back().end = y + 1;
      last_fraction_[tap.knot] = tap.fraction;
    }
  }

  void add_column(const PasteTap& column, const PasteSpan& rows, float threshold, int64_t offset) {
    const float* left = columns_.data() + column.knot * (cells_ + 2);
    lerp_all(left, left + cells_ + 2, column.fraction, cells_ + 2, profile_.data());
    find_sides(profile_.data(), first_fraction_.data(), cells_ + 1, threshold, first_side_.data());
    find_sides(profile_.data(), last_fraction_.data(), cells_ + 1, threshold, last_side_.data());
    int32_t inside = 0;
    for (const Segment& segment : segments_) {
      const int32_t first = first_side_[segment.knot], last = last_side_[segment.knot];
      if (first != inside) change(offset + segment.begin);
      if (last != first) change(offset + crossing(segment, rows, threshold, first));
      inside = last;
    }
    if (inside) change(offset + rows.end());
  }

  // sides[k]: whether the pixel at that fraction behind knot k reaches the threshold.
  MULTIVERSION static void find_sides(const float* profile, const float* fractions, int64_t count,
                                      float threshold, int32_t* sides) {
    for (int64_t k = 0; k < count; ++k)
      sides[k] = lerp(profile[k], profile[k + 1], fractions[k]) >= threshold;
  }

  // The first row of a segment that is not on the side of its first row.
  int64_t crossing(const Segment& segment, const PasteSpan& rows, float threshold,
                   int32_t first_side) const {
    const float above = profile_[segment.knot], below = profile_[segment.knot + 1];
    int64_t low = segment.begin + 1, high = segment.end - 1;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if ((lerp(above, below, rows.tap(middle).fraction) >= threshold) == first_side)
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  }

  // Inside and outside swap at this offset. Two swaps at one offset, at the end of a column and
  // the start of the next, undo each other.
  void change(int64_t offset) {
    if (!changes_.empty() && changes_.back() == offset)
      changes_.pop_back();
    else
      changes_.push_back(offset);
  }

  int64_t cells_ = 0;
  std::vector<float> columns_;  // (x knots, y knots)
  std::vector<float> profile_;  // the column at hand, at the y knots
  std::vector<Segment> segments_;
  std::vector<float> first_fraction_, last_fraction_;  // of the first and last row behind a knot
  std::vector<int32_t> first_side_, last_side_;
  std::vector<int64_t> changes_;
};

void check_paste(const Tensor& masks, const Tensor& boxes, int64_t height, int64_t width) {
  STD_TORCH_CHECK(masks.dim() == 3 && masks.size(1) == masks.size(2) && boxes.dim() == 2 &&
                      boxes.size(0) == masks.size(0) && boxes.size(1) == 4,
                  "paste_masks: masks must have shape (D, M, M), boxes (D, 4)");
  STD_TORCH_CHECK(height >= 0 && width >= 0 && (height == 0 || width <= INT32_MAX / height),
                  "paste_masks: height * width must lie in [0, 2^31), got ", height, " x ", width);
}

}  // namespace

Tensor paste_masks_cpu(Tensor masks, Tensor boxes, int64_t height, int64_t width,
                       double threshold) {
  check_paste(masks, boxes, height, width);
  masks = torch::stable::contiguous(torch::stable::to(masks, ScalarType::Float));
  boxes = torch::stable::contiguous(torch::stable::to(boxes, ScalarType::Float));
  const int64_t count = masks.size(0), cells = masks.size(1);
  Tensor out = new_tensor(masks, {count, height, width}, ScalarType::Bool);
  const float* mask_data = masks.const_data_ptr<float>();
  const float* box_data = boxes.const_data_ptr<float>();
  bool* out_data = out.mutable_data_ptr<bool>();
  torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    Paste paste;
    DensePaste dense;
    for (int64_t d = begin; d < end; ++d) {
      bool* image = out_data + d * height * width;
      std::memset(image, 0, height * width);
      if (paste.build(box_data + d * 4, cells, height, width))
        dense.write(mask_data + d * cells * cells, cells, paste, float(threshold), width, image);
    }
  });
  return out;
}

std::tuple<Tensor, Tensor> paste_masks_rle_cpu(Tensor masks, Tensor boxes, int64_t height,
                                               int64_t width, double threshold) {
  check_paste(masks, boxes, height, width);
  masks = torch::stable::contiguous(torch::stable::to(masks, ScalarType::Float));
  boxes = torch::stable::contiguous(torch::stable::to(boxes, ScalarType::Float));
  const int64_t count = masks.size(0), cells = masks.size(1);
  const float* mask_data = masks.const_data_ptr<float>();
  const float* box_data = boxes.const_data_ptr<float>();
  std::vector<std::vector<int32_t>> runs(count);
  torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    Paste paste;
    RunPaste run_paste;
    for (int64_t d = begin; d < end; ++d) {
      if (paste.build(box_data + d * 4, cells, height, width))
        run_paste.write(mask_data + d * cells * cells, cells, paste, float(threshold), height,
                        width, runs[d]);
      else
        runs[d] = {int32_t(height * width)};
    }
  });

  Tensor starts = new_tensor(masks, {count + 1}, ScalarType::Long);
  int64_t* start_data = starts.mutable_data_ptr<int64_t>();
  start_data[0] = 0;
  for (int64_t d = 0; d < count; ++d) start_data[d + 1] = start_data[d] + int64_t(runs[d].size());
  Tensor counts = new_tensor(masks, {start_data[count]}, ScalarType::Int);
  int32_t* count_data = counts.mutable_data_ptr<int32_t>();
  for (int64_t d = 0; d < count; ++d)
    std::copy(runs[d].begin(), runs[d].end(), count_data + start_data[d]);
  return {counts, starts};
}

STABLE_TORCH_LIBRARY_IMPL(mrcnn, CPU, m) {
  m.impl("paste_masks", TORCH_BOX(&paste_masks_cpu));
  m.impl("paste_masks_rle", TORCH_BOX(&paste_masks_rle_cpu));
}

}  // namespace mrcnn
