// Mask targets on the GPU: one block draws one target as columns of bits in shared memory.
#include "common/cuda.cuh"
#include "common/scan.cuh"
#include "mask_targets/bin_samples.h"
#include "mask_targets/mask_target_arguments.h"
#include "mask_targets/mask_targets.h"

namespace mrcnn {
namespace {

constexpr int kThreads = 128;     // per block that draws rings; one per column
constexpr int kBlocks = 6;        // per multiprocessor, at least, without spilling registers
constexpr int kLanesPerEdge = 4;  // most edges pass fewer columns
constexpr int kRunThreads = 256;  // per block that averages runs
constexpr int kWords = kMaxTargetSize / 32;
static_assert(kThreads >= kMaxTargetSize);

// The arguments of the op, passed to kernels by value. Only the CPU op checks offsets and frames:
// on a GPU, that would need a read-back. So kernels tolerate all values.
struct Targets {
  const double* points;
  const int64_t *ring_start, *instance_ring;
  const int32_t* counts;
  const int64_t *instance_count, *frame;
  const double* transform;
  const float* boxes;
  const int64_t* instance;
  int64_t corners, rings, runs, instances;
  int size;
};

struct Range {
  int64_t begin, end;
};

// Returns the entries of part i in an array of `count`, clamped to the array.
__device__ __forceinline__ Range part_of(const int64_t* offsets, int64_t i, int64_t count) {
  const int64_t begin = offsets[i], end = offsets[i + 1];
  const Range range = {begin < 0 ? 0 : begin < count ? begin : count, end < count ? end : count};
  return {range.begin, range.end > range.begin ? range.end : range.begin};
}

// The mask and the box from which one target is drawn.
struct RoiMask {
  Box<float> box;
  bool drawn;  // if false, the target is empty
  AxisTransform to_image_x, to_image_y;
  Range runs;  // empty for polygons

  __device__ __forceinline__ RoiMask(const Targets& targets, int64_t roi)
      : box(load_box(targets.boxes + roi * 4)), runs{0, 0} {
    const int64_t i = targets.instance[roi];
    drawn = i >= 0 && i < targets.instances && finite(box) && box.x1 < box.x2 && box.y1 < box.y2;
    if (!drawn) return;
    const double* t = targets.transform + i * 4;
    to_image_x = {t[0], t[2]}, to_image_y = {t[1], t[3]};
    runs = part_of(targets.instance_count, i, targets.runs);
  }
};

// One bit per pixel: bit b of [w][c] is row 32 w + b of column c.
struct TargetBits {
  uint32_t word[kWords][kMaxTargetSize];
};

// Writes the target. All threads of the block must call it.
__device__ __forceinline__ void write_target(const TargetBits& bits, int size, float* out) {
  for (int i = threadIdx.x; i < size * size; i += int(blockDim.x)) {
    const int row = i / size, column = i % size;
    out[i] = float(int(bits.word[row / 32][column] >> row % 32 & 1));
  }
}

// Toggles the bits of one ring. All threads of the block must call it; a few threads share an edge.
__device__ __forceinline__ void toggle_ring(const double* points, int64_t corners,
                                            const RoiMask& mask, const TargetAxis& axis_x,
                                            const TargetAxis& axis_y, int size, TargetBits& bits) {
  const int lane = threadIdx.x % kLanesPerEdge;
  for (int64_t i = threadIdx.x / kLanesPerEdge; i < corners; i += kThreads / kLanesPerEdge) {
    const double *from = points + 2 * i, *to = i + 1 < corners ? from + 2 : points;
    const int32_t x1 = grid_point(axis_x.position(mask.to_image_x.to_image(from[0])));
    const int32_t x2 = grid_point(axis_x.position(mask.to_image_x.to_image(to[0])));
    const int32_t first = first_column(min(x1, x2)), last = last_column(max(x1, x2), size);
    if (first > last) continue;
    const int32_t y1 = grid_point(axis_y.position(mask.to_image_y.to_image(from[1])));
    const int32_t y2 = grid_point(axis_y.position(mask.to_image_y.to_image(to[1])));
    const PolygonEdge edge = polygon_edge(x1, y1, x2, y2, edge_slope(x1, y1, x2, y2));
    for (int32_t column = first + lane; column <= last; column += kLanesPerEdge) {
      const int32_t row = toggled_row(edge, column, size);
      if (row < size) atomicXor(&bits.word[row / 32][column], 1u << row % 32);
    }
  }
}

// Draws targets from rings, and empty targets.
__global__ void __launch_bounds__(kThreads, kBlocks)
    draw_rings(const __grid_constant__ Targets targets, float* out) {
  SHARED(TargetBits, bits);
  const int64_t roi = blockIdx.x;
  const int size = targets.size, words = (size + 31) / 32, column = threadIdx.x;
  const RoiMask mask(targets, roi);
  if (mask.runs.begin < mask.runs.end) return;
  uint32_t inside[kWords] = {};  // bits of this thread's column
  for (int w = 0; w < words; ++w)
    if (column < size) bits.word[w][column] = 0;
  __syncthreads();
  if (mask.drawn) {
    const TargetAxis axis_x = target_axis(mask.box.x1, mask.box.x2, size);
    const TargetAxis axis_y = target_axis(mask.box.y1, mask.box.y2, size);
    const Range rings = part_of(targets.instance_ring, targets.instance[roi], targets.rings);
    for (int64_t q = rings.begin; q < rings.end; ++q) {
      const Range ring = part_of(targets.ring_start, q, targets.corners);
      if (ring.begin == ring.end) continue;
      toggle_ring(targets.points + 2 * ring.begin, ring.end - ring.begin, mask, axis_x, axis_y,
                  size, bits);
      __syncthreads();
      uint32_t above = 0;  // all bits set if the row above the word is inside
#pragma unroll
      for (int w = 0; w < kWords; ++w)  // constant indices keep the array in registers
        if (w < words && column < size) {
          const uint32_t in_ring = prefix_xor(bits.word[w][column]) ^ above;
          inside[w] |= in_ring;
          above = uint32_t(int32_t(in_ring) >> 31);
          bits.word[w][column] = 0;
        }
      __syncthreads();
    }
  }
#pragma unroll
  for (int w = 0; w < kWords; ++w)
    if (w < words && column < size) bits.word[w][column] = inside[w];
  __syncthreads();
  write_target(bits, size, out + roi * size * size);
}

// ---- RLE ----

// Finds the end of each run, in pixels down the columns of its frame. One block per instance.
__global__ void __launch_bounds__(kRunThreads)
    find_run_ends(const __grid_constant__ Targets targets, int64_t* run_ends) {
  const Range runs = part_of(targets.instance_count, blockIdx.x, targets.runs);
  int64_t done = 0;
  for (int64_t start = runs.begin; start < runs.end; start += kRunThreads) {
    const int64_t run = start + threadIdx.x;
    const int64_t length = run < runs.end ? max(targets.counts[run], 0) : 0;
    const auto ends = sum_block<kRunThreads>(length);
    if (run < runs.end) run_ends[run] = done + ends.before + length;
    done += ends.total;
  }
}

// The runs of one mask, and the current run; they are read in ascending order of pixels.
struct Runs {
  const int64_t* ends;
  int64_t count, run;

  // Moves to the first run that ends after `pixel`.
  __device__ void find(int64_t pixel) {
    int64_t low = 0, high = count;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (ends[middle] <= pixel)
        low = middle + 1;
      else
        high = middle;
    }
    run = low;
  }

  // The foreground in a bin of rows, for the column of `height` pixels that starts at `top`.
  __device__ double coverage(const BinSamples& rows, int64_t top, int64_t height) {
    double sum = 0;
    for (; run < count; ++run) {
      const int64_t begin = run > 0 ? ends[run - 1] : 0, end = ends[run];
      if (begin >= top + height) break;
      if (run % 2 == 1 && end > top && begin < end) sum += rows.weight(begin - top, end - top);
      if (end > top + height) break;  // the run continues in the next column
    }
    return sum;
  }
};

// Draws targets from RLE: a warp averages one bin of columns and each lane one bin of rows, in the
// same order as on the host.
__global__ void __launch_bounds__(kRunThreads)
    average_runs(const __grid_constant__ Targets targets, const int64_t* run_ends, float* out) {
  SHARED(TargetBits, bits);
  const int64_t roi = blockIdx.x;
  const int size = targets.size;
  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  const RoiMask mask(targets, roi);
  if (mask.runs.begin == mask.runs.end) return;
  const int64_t* frame = targets.frame + targets.instance[roi] * 2;
  const int64_t height = frame[0], width = frame[1];
  const Box<float>& box = mask.box;
  const Box<double> in_file = {mask.to_image_x.to_file(box.x1), mask.to_image_y.to_file(box.y1),
                               mask.to_image_x.to_file(box.x2), mask.to_image_y.to_file(box.y2)};
  // Pixels are counted in 32 bits.
  const bool valid = height > 0 && width > 0 && width <= INT32_MAX / height && finite(in_file);
  const bool upwards = in_file.y1 > in_file.y2, leftwards = in_file.x1 > in_file.x2;
  const double left = min(in_file.x1, in_file.x2), right = max(in_file.x1, in_file.x2);
  const double upper = min(in_file.y1, in_file.y2), lower = max(in_file.y1, in_file.y2);
  for (int bin = warp; bin < size; bin += kRunThreads / kWarpSize) {
    const int column = leftwards ? size - 1 - bin : bin;
    BinSamples columns = {};
    if (valid) columns = bin_samples(left, right, size, bin, width);
    for (int first_row = 0; first_row < size; first_row += kWarpSize) {
      const int row = min(first_row + lane, size - 1);
      double coverage = 0;
      if (valid) {
        const BinSamples rows =
            bin_samples(upper, lower, size, upwards ? size - 1 - row : row, height);
        Runs runs = {run_ends + mask.runs.begin, mask.runs.end - mask.runs.begin, 0};
        runs.find(columns.begin * height);
        for (int64_t x = columns.begin; x < columns.end; x += kWarpSize) {
          const double lane_weight = columns.weight(x + lane, x + lane + 1);
          for (int i = 0; i < kWarpSize && x + i < columns.end; ++i) {
            const double weight = __shfl_sync(kAllLanes, lane_weight, i);
            coverage += weight * runs.coverage(rows, (x + i) * height, height);
          }
        }
      }
      const unsigned word = __ballot_sync(kAllLanes, is_foreground(coverage));
      if (lane == 0) bits.word[first_row / kWarpSize][column] = word;
    }
  }
  __syncthreads();
  write_target(bits, size, out + roi * size * size);
}

}  // namespace

Tensor mask_targets_cuda(Tensor points, Tensor ring_start, Tensor instance_ring, Tensor counts,
                         Tensor instance_count, Tensor frame, Tensor transform, Tensor boxes,
                         Tensor instance, int64_t size) {
  prepare_mask_targets(points, ring_start, instance_ring, counts, instance_count, frame, transform,
                       boxes, instance, size);
  STD_TORCH_CHECK(ring_start.size(0) > 0, "mask_targets: masks.ring_start must have an entry");
  const OnDevice device(boxes);
  const int64_t rois = boxes.size(0), runs = counts.size(0), instances = frame.size(0);
  STD_TORCH_CHECK(rois <= INT32_MAX && instances <= INT32_MAX,
                  "mask_targets: too many boxes or instances for CUDA");
  Tensor out = new_tensor(boxes, {rois, size, size}, ScalarType::Float);
  if (out.numel() == 0) return out;
  const Targets targets = {points.const_data_ptr<double>(),
                           ring_start.const_data_ptr<int64_t>(),
                           instance_ring.const_data_ptr<int64_t>(),
                           counts.const_data_ptr<int32_t>(),
                           instance_count.const_data_ptr<int64_t>(),
                           frame.const_data_ptr<int64_t>(),
                           transform.const_data_ptr<double>(),
                           boxes.const_data_ptr<float>(),
                           instance.const_data_ptr<int64_t>(),
                           points.size(0),
                           ring_start.size(0) - 1,
                           runs,
                           instances,
                           int(size)};
  float* out_data = out.mutable_data_ptr<float>();
  const dim3 grid = {unsigned(rois), 1, 1};
  launch(device, draw_rings, grid, kThreads, 0, targets, out_data);
  if (runs == 0) return out;
  Tensor run_ends = new_tensor(boxes, {runs}, ScalarType::Long);
  int64_t* end_data = run_ends.mutable_data_ptr<int64_t>();
  launch(device, find_run_ends, {unsigned(instances), 1, 1}, kRunThreads, 0, targets, end_data);
  launch(device, average_runs, grid, kRunThreads, 0, targets, end_data, out_data);
  return out;
}

REGISTER_CUDA(m) { m.impl("mask_targets", BOX(mask_targets_cuda)); }

}  // namespace mrcnn
