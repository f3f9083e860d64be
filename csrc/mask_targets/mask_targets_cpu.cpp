// Mask targets on the host: polygons as columns of toggled bits, run lengths as covered bins.
#include <algorithm>

#include "common/tensor.h"
#include "mask_targets/mask_targets.h"
#include "roi_align/roi_align.h"

namespace mrcnn {
namespace {

// Offsets into an array never fall and stay inside it.
void check_offsets(const Tensor& offsets, int64_t limit, const char* name) {
  const int64_t* data = offsets.const_data_ptr<int64_t>();
  const int64_t count = offsets.numel();
  bool sound = count > 0 && data[0] >= 0 && data[count - 1] <= limit;
  for (int64_t i = 1; sound && i < count; ++i) sound = data[i - 1] <= data[i];
  STD_TORCH_CHECK(sound, "mask_targets: masks.", name, " must rise from 0 to at most ", limit);
}

// One bit a pixel, column by column.
class TargetBits {
 public:
  explicit TargetBits(int64_t size) : size_(size) { clear(inside_); }

  // Adds the inside of a ring of n corners.
  void draw_ring(const double* xy, int64_t n, const AxisTransform transform[2],
                 const TargetAxis axis[2]) {
    clear(toggles_);
    const auto corner = [&](int64_t i, int d) {
      return grid_point(axis[d].position(transform[d].to_image(xy[2 * i + d])));
    };
    const int64_t first_x = corner(0, 0), first_y = corner(0, 1);
    int64_t x = first_x, y = first_y;
    for (int64_t i = 1; i <= n; ++i) {
      const int64_t next_x = i < n ? corner(i, 0) : first_x;
      const int64_t next_y = i < n ? corner(i, 1) : first_y;
      const PolygonEdge edge = polygon_edge(x, y, next_x, next_y, size_);
      for (int64_t c = edge.first_column; c <= edge.last_column; ++c) {
        const int64_t row = toggled_row(edge, c, size_);
        if (row < size_) toggles_[c][row / 64] ^= uint64_t(1) << row % 64;
      }
      x = next_x, y = next_y;
    }
    for (int64_t c = 0; c < size_; ++c) {
      const uint64_t top = prefix_xor(toggles_[c][0]), bottom = prefix_xor(toggles_[c][1]);
      inside_[c][0] |= top;
      inside_[c][1] |= top >> 63 ? ~bottom : bottom;
    }
  }

  void write(float* out) const {
    for (int64_t row = 0; row < size_; ++row)
      for (int64_t c = 0; c < size_; ++c) *out++ = float(inside_[c][row / 64] >> row % 64 & 1);
  }

 private:
  using Columns = uint64_t[kMaxTargetSize][2];

  void clear(Columns& columns) { std::fill_n(columns[0], 2 * size_, uint64_t(0)); }

  int64_t size_;
  Columns toggles_, inside_;
};

// How much each cell of an axis weighs in the average of each bin (RoIAlign, adaptive samples).
class BinWeights {
 public:
  void build(double low, double high, int64_t bins, int64_t cells) {
    const RoiAxis<double> axis = roi_axis(low, high, 1.0, bins, int64_t(0), true);
    bins_.clear();
    below_.clear();
    for (int64_t b = 0; b < bins; ++b) {
      Bin bin{0, 0, int64_t(below_.size())};
      for (int64_t s = 0; s < axis.samples; ++s) {
        LinearTap<double> tap;
        if (!linear_tap(axis.position(b, s), cells, tap)) continue;
        if (bin.end == 0) bin.begin = tap.low;
        bin.end = tap.high + 1;  // samples advance
        below_.resize(bin.offset + bin.end - bin.begin + 1, 0.0);
        double* below = below_.data() + bin.offset + 1 - bin.begin;
        below[tap.low] += tap.weight_low / axis.samples;
        below[tap.high] += tap.weight_high / axis.samples;
      }
      for (int64_t i = bin.offset + 1; i < int64_t(below_.size()); ++i) below_[i] += below_[i - 1];
      bins_.push_back(bin);
    }
  }

  // The cells that any bin reads: begin to end.
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

  // Weight in bin b of the cells from `begin` to `end`.
  double weight(int64_t b, int64_t begin, int64_t end) const {
    const Bin& bin = bins_[b];
    begin = std::max(begin, bin.begin), end = std::min(end, bin.end);
    if (begin >= end) return 0;
    const double* below = below_.data() + bin.offset - bin.begin;
    return below[end] - below[begin];
  }

 private:
  struct Bin {
    int64_t begin, end;  // cells with weight
    int64_t offset;      // below_[offset + i]: weight of its first i cells
  };
  std::vector<Bin> bins_;
  std::vector<double> below_;
};

// Targets of run-length masks; holds the scratch of one thread.
class RunTargets {
 public:
  // Bins of `box` (x1, y1, x2, y2 in file pixels; x1 > x2 reads from right to left) in a mask of
  // height x width, given as n runs down the columns.
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
  // column_cover_[(x - first) * size + bin]: foreground of column x in each bin of rows.
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

}  // namespace

Tensor mask_targets_cpu(Tensor points, Tensor ring_start, Tensor instance_ring, Tensor counts,
                        Tensor instance_count, Tensor frame, Tensor transform, Tensor boxes,
                        Tensor instance, int64_t size) {
  for (Tensor* tensor : {&points, &ring_start, &instance_ring, &counts, &instance_count, &frame,
                         &transform, &boxes, &instance})
    *tensor = torch::stable::contiguous(*tensor);
  const int64_t instances = frame.size(0), rois = boxes.size(0);
  STD_TORCH_CHECK(size >= 0 && size <= kMaxTargetSize, "mask_targets: size must lie in [0, ",
                  kMaxTargetSize, "], got ", size);
  STD_TORCH_CHECK(instance_ring.size(0) == instances + 1 &&
                      instance_count.size(0) == instances + 1 && transform.size(0) == instances,
                  "mask_targets: masks must describe one number of instances");
  check_offsets(ring_start, points.size(0), "ring_start");
  check_offsets(instance_ring, ring_start.size(0) - 1, "instance_ring");
  check_offsets(instance_count, counts.size(0), "instance_count");
  const int64_t* instance_data = instance.const_data_ptr<int64_t>();
  for (int64_t r = 0; r < rois; ++r)
    STD_TORCH_CHECK(instance_data[r] >= -1 && instance_data[r] < instances,
                    "mask_targets: instance must lie in [-1, ", instances, "), got ",
                    instance_data[r], " at ", r);

  Tensor out = new_tensor(boxes, {rois, size, size}, ScalarType::Float);
  const double* point_data = points.const_data_ptr<double>();
  const int64_t* ring_data = ring_start.const_data_ptr<int64_t>();
  const int64_t* instance_ring_data = instance_ring.const_data_ptr<int64_t>();
  const int32_t* count_data = counts.const_data_ptr<int32_t>();
  const int64_t* instance_count_data = instance_count.const_data_ptr<int64_t>();
  const int64_t* frame_data = frame.const_data_ptr<int64_t>();
  const double* transform_data = transform.const_data_ptr<double>();
  const float* box_data = boxes.const_data_ptr<float>();
  float* out_data = out.mutable_data_ptr<float>();

  torch::stable::parallel_for(0, rois, 8, [&](int64_t begin, int64_t end) {
    RunTargets run_targets;
    for (int64_t r = begin; r < end; ++r) {
      float* target = out_data + r * size * size;
      std::fill_n(target, size * size, 0.0f);
      const Box<float> box = load_box(box_data + r * 4);
      const int64_t i = instance_data[r];
      if (i < 0 || !finite(box) || !(box.x1 < box.x2 && box.y1 < box.y2)) continue;

      const double* t = transform_data + i * 4;
      const AxisTransform to_image[2] = {{t[0], t[2]}, {t[1], t[3]}};
      const int64_t first_run = instance_count_data[i], last_run = instance_count_data[i + 1];
      if (first_run < last_run) {
        const int64_t height = frame_data[i * 2], width = frame_data[i * 2 + 1];
        const Box<double> in_file{to_image[0].to_file(box.x1), to_image[1].to_file(box.y1),
                                  to_image[0].to_file(box.x2), to_image[1].to_file(box.y2)};
        if (height > 0 && width > 0 && finite(in_file))
          run_targets.write(count_data + first_run, last_run - first_run, height, width, in_file,
                            size, target);
        continue;
      }
      const TargetAxis axis[2] = {target_axis(box.x1, box.x2, size),
                                  target_axis(box.y1, box.y2, size)};
      TargetBits bits(size);
      for (int64_t q = instance_ring_data[i]; q < instance_ring_data[i + 1]; ++q)
        if (ring_data[q] < ring_data[q + 1])
          bits.draw_ring(point_data + 2 * ring_data[q], ring_data[q + 1] - ring_data[q], to_image,
                         axis);
      bits.write(target);
    }
  });
  return out;
}

STABLE_TORCH_LIBRARY_IMPL(mrcnn, CPU, m) { m.impl("mask_targets", TORCH_BOX(&mask_targets_cpu)); }

}  // namespace mrcnn
