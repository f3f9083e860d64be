// Matching on the GPU: one thread per box, with the targets that may overlap a block's boxes in
// shared memory. The matrix of all overlaps is not stored. A second pass computes the overlaps
// again for the rule that the best boxes of each target are positive.
#include <tuple>

#include "common/cuda.cuh"
#include "match_boxes/match_boxes.h"

namespace mrcnn {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarpSize;

// The targets of one chunk that may overlap the boxes of a block, in order.
struct NearTargets {
  Box<float> box[kThreads];
  float area[kThreads];
  int slot[kThreads];
  // The largest overlap with any box, as bits: these order like the floats if none is negative.
  unsigned most[kThreads];
  int warp_count[kWarps];  // number of targets listed by each warp
  Box<float> hull[kWarps];
};

__device__ __forceinline__ Box<float> join(const Box<float>& a, const Box<float>& b) {
  return {fminf(a.x1, b.x1), fminf(a.y1, b.y1), fmaxf(a.x2, b.x2), fmaxf(a.y2, b.y2)};
}

// Computes the hull of the boxes of all threads, ignoring NaN.
__device__ __forceinline__ Box<float> hull_of_block(Box<float> hull, NearTargets& near) {
  for (int step = kWarpSize / 2; step > 0; step /= 2)
    hull = join(
        hull,
        {__shfl_xor_sync(kAllLanes, hull.x1, step), __shfl_xor_sync(kAllLanes, hull.y1, step),
         __shfl_xor_sync(kAllLanes, hull.x2, step), __shfl_xor_sync(kAllLanes, hull.y2, step)});
  if (threadIdx.x % kWarpSize == 0) near.hull[threadIdx.x / kWarpSize] = hull;
  __syncthreads();
  for (int warp = 0; warp < kWarps; ++warp) hull = join(hull, near.hull[warp]);
  return hull;
}

// Lists the targets of the threads with `listed` set; returns their number.
__device__ __forceinline__ int list_targets(bool listed, const Box<float>& target, int slot,
                                            unsigned most, NearTargets& near) {
  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  const unsigned lanes = __ballot_sync(kAllLanes, listed);
  __syncthreads();  // all threads have read the previous list
  if (lane == 0) near.warp_count[warp] = __popc(lanes);
  const int count = __syncthreads_count(listed);
  if (listed) {
    int position = __popc(lanes & ((1u << lane) - 1));
    for (int w = 0; w < warp; ++w) position += near.warp_count[w];
    near.box[position] = target, near.area[position] = area(target);
    near.slot[position] = slot, near.most[position] = most;
  }
  __syncthreads();
  return count;
}

// Computes the IoU; 0 if it is NaN.
__device__ __forceinline__ float overlap_of(const Box<float>& a, float area_a, const Box<float>& b,
                                            float area_b) {
  if (!(intersection(a, b) > 0)) return 0;  // true for most pairs, and spares a division
  const float value = iou(a, area_a, b, area_b);
  return value > 0 ? value : 0;
}

__device__ __forceinline__ float warp_max(float value) {
  for (int step = kWarpSize / 2; step > 0; step /= 2)
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, step));
  return value;
}

struct Matching {
  const float *boxes, *targets;
  const bool* valid;
  int64_t count, slots, blocks;  // per image
  bool shared_boxes;             // anchors are the same for all images
  float low, high;
};

// The first pass (kMark is false) finds the target that each box overlaps most and, unless `most`
// is nullptr, raises `most` (N, G) from 0 to the largest overlap of each target, as bits. The
// second pass (kMark is true) makes the boxes positive whose overlap with a target equals that
// maximum.
template <bool kMark>
__global__ void __launch_bounds__(kThreads)
    match_boxes_kernel(const __grid_constant__ Matching matching, unsigned* most, int64_t* matched,
                       int8_t* role) {
  SHARED(NearTargets, near);
  const int64_t image = blockIdx.x / matching.blocks, count = matching.count;
  const int64_t i = blockIdx.x % matching.blocks * kThreads + threadIdx.x;
  Box<float> box = {NAN, NAN, NAN, NAN};  // overlaps nothing
  if (i < count)
    box = load_box(matching.boxes + ((matching.shared_boxes ? 0 : image * count) + i) * 4);
  const float box_area = area(box);
  // Anchors that are neighbours in memory are neighbours in the image, so most targets are outside
  // of most hulls.
  const Box<float> hull = hull_of_block(box, near);

  float best = 0;
  int best_slot = 0;
  bool keeps = false;
  for (int64_t start = 0; start < matching.slots; start += kThreads) {
    const int64_t slot = start + threadIdx.x, t = image * matching.slots + slot;
    Box<float> target = {};
    bool listed = slot < matching.slots && matching.valid[t];
    unsigned target_most = 0;
    if (listed) {
      target = load_box(matching.targets + t * 4);
      listed =
          target.x1 < hull.x2 && target.x2 > hull.x1 && target.y1 < hull.y2 && target.y2 > hull.y1;
      if constexpr (kMark) {
        target_most = most[t];
        listed &= target_most != 0;
      }
    }
    const int targets = list_targets(listed, target, int(slot), target_most, near);
    for (int j = 0; j < targets; ++j) {
      const float overlap = overlap_of(box, box_area, near.box[j], near.area[j]);
      if constexpr (kMark) {
        keeps |= __float_as_uint(overlap) == near.most[j];
      } else {
        if (overlap > best) best = overlap, best_slot = near.slot[j];
        if (most == nullptr || !__any_sync(kAllLanes, overlap > 0)) continue;
        const float largest = warp_max(overlap);
        if (threadIdx.x % kWarpSize == 0) atomicMax(&near.most[j], __float_as_uint(largest));
      }
    }
    if (!kMark && most != nullptr) {
      __syncthreads();
      if (int(threadIdx.x) < targets && near.most[threadIdx.x] != 0)
        atomicMax(&most[image * matching.slots + near.slot[threadIdx.x]], near.most[threadIdx.x]);
    }
  }
  if (i >= count) return;
  if constexpr (kMark) {
    if (keeps) role[image * count + i] = 1;
  } else {
    matched[image * count + i] = best_slot;
    role[image * count + i] = role_of(best, matching.low, matching.high);
  }
}

}  // namespace

std::tuple<Tensor, Tensor> match_boxes_cuda(Tensor boxes, Tensor targets, Tensor valid,
                                            double low_threshold, double high_threshold,
                                            bool low_quality) {
  check_match_boxes(boxes, targets, valid);
  const OnDevice device(boxes);
  boxes = torch::stable::contiguous(torch::stable::to(boxes, ScalarType::Float));
  targets = torch::stable::contiguous(torch::stable::to(targets, ScalarType::Float));
  valid = torch::stable::contiguous(valid);
  const int64_t images = targets.size(0), slots = targets.size(1), count = boxes.size(1);
  const int64_t blocks = ceil_div(count, kThreads);
  STD_TORCH_CHECK(images * blocks <= INT32_MAX && slots <= INT32_MAX,
                  "match_boxes: too many boxes for CUDA, got ", images, " x ", count);

  Tensor matched = new_tensor(boxes, {images, count}, ScalarType::Long);
  Tensor role = new_tensor(boxes, {images, count}, ScalarType::Char);
  const Matching matching = {boxes.const_data_ptr<float>(), targets.const_data_ptr<float>(),
                             valid.const_data_ptr<bool>(), count, slots, blocks, boxes.size(0) == 1,
                             // The precision of the overlaps: an IoU of 7 / 10 reaches 0.7.
                             float(low_threshold), float(high_threshold)};
  const dim3 grid = {unsigned(images * blocks), 1, 1};
  const auto run = [&](auto kernel, unsigned* most) {
    launch(device, kernel, grid, kThreads, 0, matching, most, matched.mutable_data_ptr<int64_t>(),
           role.mutable_data_ptr<int8_t>());
  };
  if (!low_quality || targets.numel() == 0) {
    run(match_boxes_kernel<false>, nullptr);
    return {matched, role};
  }
  // The boxes that overlap a target most are positive, however little (Faster R-CNN, 3.1.2).
  Tensor most = new_tensor(boxes, {images, slots}, ScalarType::Int);
  auto* most_data = reinterpret_cast<unsigned*>(most.mutable_data_ptr<int32_t>());
  STD_CUDA_CHECK(cudaMemsetAsync(most_data, 0, images * slots * sizeof(unsigned), device.stream));
  run(match_boxes_kernel<false>, most_data);
  run(match_boxes_kernel<true>, most_data);
  return {matched, role};
}

REGISTER_CUDA(m) { m.impl("match_boxes", BOX(match_boxes_cuda)); }

}  // namespace mrcnn
