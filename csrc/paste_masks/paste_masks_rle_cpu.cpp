// Pastes masks into the image as RLE, without visiting the pixels.
//
// Between two knots, the values of a column are monotone. So its pixels change side at most once
// there, and not at all if the first and the last pixel are on the same side.
#include <algorithm>
#include <numeric>
#include <tuple>

#include "paste_masks/paste_span.h"

namespace mrcnn {
namespace {

// The segments of a pasted mask: the rows of the image between two knots. Holds the scratch of one
// thread.
struct MaskSegments {
  static constexpr int64_t kWord = 32;  // segments that are compared together

  int64_t stride = 0;               // number of segments, rounded up
  std::vector<float> above, below;  // (x knots, stride): values at the knots around each
  std::vector<float> first_fraction, last_fraction;  // at the first and the last row of each
  std::vector<int32_t> begin;                        // the first row of each
  const PasteSpan* rows = nullptr;
  float rows_per_knot = 0;

  void build(const float* mask, int64_t cells, const PasteSpan& image_rows, float rows_between) {
    rows = &image_rows, rows_per_knot = rows_between;
    // At least one segment of zeros follows the last one, so that columns end outside.
    stride = (std::min(rows->size(), cells + 1) + kWord) / kWord * kWord;
    first_fraction.assign(stride, 0.0f);
    last_fraction.assign(stride, 0.0f);
    begin.assign(stride, int32_t(rows->end));
    above.assign((cells + 2) * stride, 0.0f);
    below.assign((cells + 2) * stride, 0.0f);
    int64_t s = -1;
    for (int64_t i = 0; i < rows->size(); ++i) {
      const int32_t knot = rows->knots[i];  // knot k is cell k - 1
      if (i == 0 || knot != rows->knots[i - 1]) {
        begin[++s] = int32_t(rows->begin + i);
        first_fraction[s] = rows->fractions[i];
        if (knot > 0) spread(mask + (knot - 1) * cells, cells, above.data() + s);
        if (knot < cells) spread(mask + knot * cells, cells, below.data() + s);
      }
      last_fraction[s] = rows->fractions[i];
    }
  }

  // Returns the first row of segment s that is not on the side of its first row; its last row is
  // not.
  int64_t crossing(int64_t s, bool side, float value_above, float value_below,
                   float threshold) const {
    const float* fractions = rows->fractions.data() - rows->begin;
    return mrcnn::crossing(begin[s], begin[s + 1] - 1, side, value_above, value_below,
                           rows_per_knot, threshold, [&](int64_t row) { return fractions[row]; });
  }

 private:
  void spread(const float* row, int64_t cells, float* out) const {
    for (int64_t x = 0; x < cells; ++x) out[(x + 1) * stride] = row[x];
  }
};

}  // namespace
}  // namespace mrcnn

#define LOOPS "paste_masks/paste_masks_rle_loops.h"
#include "common/each_isa.h"

namespace mrcnn {

std::tuple<Tensor, Tensor> paste_masks_rle_cpu(Tensor masks, Tensor boxes, int64_t height,
                                               int64_t width, double threshold) {
  prepare_paste(masks, boxes, height, width);
  const int64_t count = masks.size(0), cells = masks.size(1), pixels = height * width;
  const float* mask_data = masks.const_data_ptr<float>();
  const float* box_data = boxes.const_data_ptr<float>();
  std::vector<std::vector<int32_t>> runs(count);
  torch::stable::parallel_for(0, count, 16, [&](int64_t begin, int64_t end) {
    Paste paste;
    MaskSegments segments;
    std::vector<int32_t> changes;
    for (int64_t d = begin; d < end; ++d) {
      changes.clear();
      const float* box = box_data + d * 4;
      if (paste.build(box, cells, height, width)) {
        segments.build(mask_data + d * cells * cells, cells, paste.rows,
                       (box[3] - box[1]) / float(cells));
        BY_ISA(find_changes(segments, paste.columns, float(threshold), height, changes));
      }
      // Runs are between the changes and the ends of the image; the first one may be empty.
      if (changes.empty() || changes.back() < pixels) changes.push_back(int32_t(pixels));
      runs[d].resize(changes.size());
      std::adjacent_difference(changes.begin(), changes.end(), runs[d].begin());
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

STABLE_TORCH_LIBRARY_IMPL(mrcnn, CPU, m) { m.impl("paste_masks_rle", BOX(paste_masks_rle_cpu)); }

}  // namespace mrcnn
