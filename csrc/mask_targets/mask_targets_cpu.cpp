// Mask targets on the host: polygons as columns of toggled bits, RLE as the coverage of bins.
#include <algorithm>

#include "mask_targets/mask_target_arguments.h"
#include "mask_targets/mask_targets.h"
#include "mask_targets/run_targets.h"

namespace mrcnn {
namespace {

// Offsets into an array must never decrease and must stay inside it.
void check_offsets(const Tensor& offsets, int64_t limit, const char* name) {
  const int64_t* data = offsets.const_data_ptr<int64_t>();
  const int64_t count = offsets.numel();
  bool sound = count > 0 && data[0] >= 0 && data[count - 1] <= limit;
  for (int64_t i = 1; sound && i < count; ++i) sound = data[i - 1] <= data[i];
  STD_TORCH_CHECK(sound, "mask_targets: masks.", name, " must rise from 0 to at most ", limit);
}

// The runs of each instance that has runs must fill its frame.
void check_runs(const int32_t* counts, const int64_t* starts, const int64_t* frame,
                int64_t instances) {
  for (int64_t i = 0; i < instances; ++i) {
    if (starts[i] == starts[i + 1]) continue;
    const int64_t height = frame[2 * i], width = frame[2 * i + 1];
    bool sound = height >= 0 && width >= 0 && (height == 0 || width <= INT32_MAX / height);
    int64_t sum = 0;
    for (int64_t run = starts[i]; run < starts[i + 1]; ++run) {
      sound &= counts[run] >= 0;
      sum += counts[run];
    }
    STD_TORCH_CHECK(sound && sum == height * width, "mask_targets: masks.counts of instance ", i,
                    " must be at least 0 and sum to height * width of masks.frame, ", height, " * ",
                    width, ", got a sum of ", sum);
  }
}

// The current ring on the grid: corner i and the edge that starts there. Scratch of one thread.
struct RingEdges {
  std::vector<int32_t> x, y;  // one more than edges: the first corner is repeated
  std::vector<int32_t> first_column, last_column;
  std::vector<double> slope;
  std::vector<uint8_t> wide;
  std::vector<int32_t> order;  // the order in which edges are drawn

  void resize(int64_t n) {
    x.resize(n + 1), y.resize(n + 1);
    first_column.resize(n), last_column.resize(n), slope.resize(n);
    wide.resize(n), order.resize(n);
  }
};

// One bit per pixel: bit b of [w][c] is row 32 w + b of column c.
struct TargetBits {
  static constexpr int64_t kWords = kMaxTargetSize / 32;
  static constexpr int64_t kGroup = 4;  // upper bound on the columns toggled together
  uint32_t toggled[kWords][kMaxTargetSize + kGroup], inside[kWords][kMaxTargetSize];
};

}  // namespace
}  // namespace mrcnn

#define LOOPS "mask_targets/mask_targets_loops.h"
#include "common/each_isa.h"

namespace mrcnn {

Tensor mask_targets_cpu(Tensor points, Tensor ring_start, Tensor instance_ring, Tensor counts,
                        Tensor instance_count, Tensor frame, Tensor transform, Tensor boxes,
                        Tensor instance, int64_t size) {
  prepare_mask_targets(points, ring_start, instance_ring, counts, instance_count, frame, transform,
                       boxes, instance, size);
  const int64_t instances = frame.size(0), rois = boxes.size(0);
  check_offsets(ring_start, points.size(0), "ring_start");
  check_offsets(instance_ring, ring_start.size(0) - 1, "instance_ring");
  check_offsets(instance_count, counts.size(0), "instance_count");
  check_runs(counts.const_data_ptr<int32_t>(), instance_count.const_data_ptr<int64_t>(),
             frame.const_data_ptr<int64_t>(), instances);
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

  torch::stable::parallel_for(0, rois, 32, [&](int64_t begin, int64_t end) {
    RunTargets run_targets;
    RingEdges edges;
    TargetBits bits;
    for (int64_t r = begin; r < end; ++r) {
      float* target = out_data + r * size * size;
      const Box<float> box = load_box(box_data + r * 4);
      const int64_t i = instance_data[r];
      if (i < 0 || !finite(box) || !(box.x1 < box.x2 && box.y1 < box.y2)) {
        std::fill_n(target, size * size, 0.0f);
        continue;
      }

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
        else
          std::fill_n(target, size * size, 0.0f);
        continue;
      }
      const TargetAxis axis[2] = {target_axis(box.x1, box.x2, size),
                                  target_axis(box.y1, box.y2, size)};
      for (int64_t word = 0; word < (size + 31) / 32; ++word)
        std::fill_n(bits.inside[word], size, 0u);
      for (int64_t q = instance_ring_data[i]; q < instance_ring_data[i + 1]; ++q)
        if (ring_data[q] < ring_data[q + 1])
          BY_ISA(draw_ring(point_data + 2 * ring_data[q], ring_data[q + 1] - ring_data[q], to_image,
                           axis, int32_t(size), edges, bits));
      BY_ISA(write_target(bits, size, target));
    }
  });
  return out;
}

STABLE_TORCH_LIBRARY_IMPL(mrcnn, CPU, m) { m.impl("mask_targets", BOX(mask_targets_cpu)); }

}  // namespace mrcnn
