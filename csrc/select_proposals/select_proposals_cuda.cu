// Selects proposals from the outputs of the RPN head on the GPU, in a few launches and without
// reading values back to the host:
//
//   1. select_parts     chooses the best logits of each part of a level
//   2. select_levels    chooses and sorts the best of each level, and decodes them
//   3. suppress_sorted  runs NMS within each level
//   4. merge_levels     keeps the best of all levels of an image
#include <algorithm>
#include <tuple>
#include <type_traits>
#include <vector>

#include "common/cuda.cuh"
#include "nms/nms.cuh"
#include "nms/select.cuh"
#include "select_proposals/select_proposals.h"

namespace mrcnn {
namespace {

constexpr int kMaxLevels = 8;
constexpr int kPartThreads = 512, kPart = 8192;  // logits that one block chooses from
constexpr int kLevelThreads = 1024, kMergeThreads = 1024;

// One output of the RPN head, (N, H, W, values): the values of a pixel are adjacent. Logits and
// deltas may be views of one tensor, so there can be gaps between pixels.
template <typename T>
struct HeadMap {
  const T* data;
  int64_t image_stride, pixel_stride;

  // The values of anchor `index` of an image, for `anchors` anchors per pixel and `values` values
  // per anchor.
  __device__ __forceinline__ const T* of_anchor(int64_t image, unsigned index, unsigned anchors,
                                                unsigned values) const {
    return data + image * image_stride + index / anchors * pixel_stride + index % anchors * values;
  }
};

// The outputs of all levels, passed to kernels by value.
template <typename T>
struct HeadMaps {
  HeadMap<T> logits[kMaxLevels], deltas[kMaxLevels];
  int64_t height[kMaxLevels], width[kMaxLevels];
  float step_y[kMaxLevels], step_x[kMaxLevels];
  int first_part[kMaxLevels + 1];  // the first part of each level, among all parts of an image
  int levels, anchors;

  __device__ __forceinline__ int64_t logits_per_image(int level) const {
    return height[level] * width[level] * anchors;
  }
};

// Writes the keys of the best logits of one part, in any order, and 0 for the rest of
// `most_in_part`. Grid: (parts of an image, images).
template <typename T>
__global__ void __launch_bounds__(kPartThreads)
    select_parts(const __grid_constant__ HeadMaps<T> maps, unsigned most_in_part, uint64_t* keys) {
  SHARED(SelectScratch, scratch);
  SHARED(uint32_t[kPart], bits);  // ordered_bits of the logits; 0 does not compete
  SHARED(unsigned, chosen);
  int level = 0;
  while (int(blockIdx.x) >= maps.first_part[level + 1]) ++level;
  const int64_t numel = maps.logits_per_image(level);
  const int64_t first = int64_t(blockIdx.x - maps.first_part[level]) * kPart;
  const int count = int(min(int64_t(kPart), numel - first));
  for (int i = threadIdx.x; i < count; i += kPartThreads) {
    const float logit =
        float(*maps.logits[level].of_anchor(blockIdx.y, unsigned(first + i), maps.anchors, 1));
    bits[i] = competes(logit) ? ordered_bits(logit) : 0;
  }
  if (threadIdx.x == 0) chosen = 0;
  __syncthreads();
  const auto key_at = [&](int64_t i) {
    return bits[i] == 0 ? 0 : uint64_t(bits[i]) << 32 | (0xFFFFFFFFu - uint32_t(first + i));
  };
  const uint64_t least = least_of_best<kPartThreads>(count, most_in_part, scratch, key_at);
  keys += (int64_t(blockIdx.y) * gridDim.x + blockIdx.x) * most_in_part;
  for (int i = threadIdx.x; i < count; i += kPartThreads)
    if (key_at(i) >= least) keys[atomicAdd(&chosen, 1u)] = key_at(i);
  __syncthreads();
  for (unsigned i = chosen + threadIdx.x; i < most_in_part; i += kPartThreads) keys[i] = 0;
}

// Writes the candidates of one level of one image, best first: boxes (N, L, K, 4) decoded and
// clipped, scores, and whether they compete. Grid: (levels, images). If the keys do not fit the
// shared memory, `sorted` has `size` keys per block.
template <typename T>
__global__ void __launch_bounds__(kLevelThreads)
    select_levels(const __grid_constant__ HeadMaps<T> maps, const uint64_t* part_keys,
                  unsigned most_in_part, const float* cell_anchors, const int64_t* sizes,
                  unsigned k, float min_side, int size, uint64_t* sorted, Box<float>* boxes,
                  float* scores, uint8_t* takes_part) {
  DYNAMIC_SHARED(uint64_t, shared_keys);
  SHARED(SelectScratch, scratch);
  SHARED(unsigned, chosen);
  const int level = blockIdx.x;
  const int64_t image = blockIdx.y, segment = image * maps.levels + level;
  sorted = sorted ? sorted + segment * size : shared_keys;

  const int parts = maps.first_part[maps.levels];
  const uint64_t* keys =
      part_keys + (image * parts + maps.first_part[level]) * int64_t(most_in_part);
  const int64_t count = int64_t(maps.first_part[level + 1] - maps.first_part[level]) * most_in_part;
  if (threadIdx.x == 0) chosen = 0;
  const auto key_at = [&](int64_t i) { return keys[i]; };
  const uint64_t least = least_of_best<kLevelThreads>(count, k, scratch, key_at);
  for (int64_t i = threadIdx.x; i < count; i += kLevelThreads)
    if (keys[i] >= least) sorted[atomicAdd(&chosen, 1u)] = keys[i];
  __syncthreads();
  for (int i = int(chosen) + threadIdx.x; i < size; i += kLevelThreads) sorted[i] = 0;
  __syncthreads();
  sort_falling<kLevelThreads>(sorted, size);

  const float weights[4] = {1, 1, 1, 1};
  const float height = float(sizes[image * 2]), width = float(sizes[image * 2 + 1]);
  for (unsigned i = threadIdx.x; i < k; i += kLevelThreads) {
    Box<float> box = {0, 0, 0, 0};
    float score = 0;
    bool competes = i < chosen;
    if (competes) {
      const int64_t index = key_index(sorted[i]);
      const Box<float> anchor =
          anchor_at(index, maps.width[level], int64_t(maps.anchors), maps.step_y[level],
                    maps.step_x[level], cell_anchors + level * maps.anchors * 4);
      const T* values = maps.deltas[level].of_anchor(image, unsigned(index), maps.anchors, 4);
      const float delta[4] = {float(values[0]), float(values[1]), float(values[2]),
                              float(values[3])};
      box = clip(decode(anchor, delta, weights), height, width);
      score = float(*maps.logits[level].of_anchor(image, unsigned(index), maps.anchors, 1));
      // False for NaN.
      competes = box.x2 - box.x1 > min_side && box.y2 - box.y1 > min_side;
    }
    boxes[segment * k + i] = box;
    scores[segment * k + i] = score;
    takes_part[segment * k + i] = competes;
  }
}

// Merges the kept boxes of all levels of an image, best first; ties go to the finer level. The rank
// of a box is the number of better boxes, found by binary search in each other level. One block per
// image. If the scores do not fit the shared memory, they are in `kept_scores` (N, L, max_keep).
__global__ void __launch_bounds__(kMergeThreads)
    merge_levels(const Box<float>* boxes, const float* scores, const int32_t* positions,
                 const int32_t* counts, int levels, int64_t k, int64_t max_keep, float* kept_scores,
                 int64_t slots, Box<float>* out_boxes, float* out_scores) {
  DYNAMIC_SHARED(float, shared_scores);
  const int64_t image = blockIdx.x, items = levels * max_keep;
  boxes += image * levels * k, scores += image * levels * k;
  positions += image * items, counts += image * levels;
  out_boxes += image * slots, out_scores += image * slots;
  float* kept = kept_scores ? kept_scores + image * items : shared_scores;
  int64_t total = 0;
  for (int level = 0; level < levels; ++level) total += counts[level];
  for (int64_t i = threadIdx.x; i < items; i += kMergeThreads)
    if (i % max_keep < counts[i / max_keep]) kept[i] = scores[i / max_keep * k + positions[i]];
  __syncthreads();
  for (int64_t i = threadIdx.x; i < items; i += kMergeThreads) {
    const int level = int(i / max_keep);
    if (i % max_keep >= counts[level]) continue;
    int64_t rank = i % max_keep;
    for (int other = 0; other < levels; ++other) {
      if (other == level) continue;
      const float* list = kept + other * max_keep;
      int64_t low = 0, high = counts[other];  // the first in the list that ranks after this box
      while (low < high) {
        const int64_t middle = (low + high) / 2;
        const bool before = other < level ? list[middle] >= kept[i] : list[middle] > kept[i];
        low = before ? middle + 1 : low;
        high = before ? high : middle;
      }
      rank += low;
    }
    if (rank >= slots) continue;
    out_boxes[rank] = boxes[level * k + positions[i]];
    out_scores[rank] = kept[i];
  }
  for (int64_t i = min(total, slots) + threadIdx.x; i < slots; i += kMergeThreads) {
    out_boxes[i] = {0, 0, 0, 0};
    out_scores[i] = -HUGE_VALF;
  }
}

// Returns whether the strides of `map` fit HeadMap.
bool is_head_map(const Tensor& map) {
  const int64_t width = map.size(3), pixel = width > 1 ? map.stride(3) : map.stride(2);
  return (map.size(1) == 1 || map.stride(1) == 1) &&
         (map.size(2) == 1 || width == 1 || map.stride(2) == width * pixel);
}

template <typename T>
HeadMap<T> head_map(const Tensor& map) {
  return {map.const_data_ptr<T>(), map.stride(0), map.size(3) > 1 ? map.stride(3) : map.stride(2)};
}

template <typename T>
HeadMaps<T> maps_of(const std::vector<Tensor>& logits, const std::vector<Tensor>& deltas,
                    const std::vector<int64_t>& strides) {
  HeadMaps<T> maps = {};
  maps.levels = int(logits.size()), maps.anchors = int(logits[0].size(1));
  for (int l = 0; l < maps.levels; ++l) {
    maps.logits[l] = head_map<T>(logits[l]), maps.deltas[l] = head_map<T>(deltas[l]);
    maps.height[l] = logits[l].size(2), maps.width[l] = logits[l].size(3);
    maps.step_y[l] = float(strides[2 * l]), maps.step_x[l] = float(strides[2 * l + 1]);
    const int64_t numel = maps.height[l] * maps.width[l] * maps.anchors;
    STD_TORCH_CHECK(numel <= INT32_MAX,
                    "select_proposals: a level must have less than 2^31 logits");
    maps.first_part[l + 1] = maps.first_part[l] + int(ceil_div(numel, kPart));
  }
  return maps;
}

}  // namespace

std::tuple<Tensor, Tensor> select_proposals_cuda(std::vector<Tensor> logits,
                                                 std::vector<Tensor> deltas, Tensor cell_anchors,
                                                 std::vector<int64_t> strides, Tensor sizes,
                                                 int64_t pre_nms_top_k, int64_t post_nms_top_k,
                                                 double nms_threshold, double min_side) {
  check_proposals(logits, deltas, cell_anchors, strides, sizes, pre_nms_top_k, post_nms_top_k);
  const int64_t levels = int64_t(logits.size()), images = logits[0].size(0);
  STD_TORCH_CHECK(levels <= kMaxLevels && images <= 65535, "select_proposals: at most ", kMaxLevels,
                  " levels and 65535 images on CUDA, got ", levels, " and ", images);
  const OnDevice device(sizes);
  ScalarType dtype = logits[0].scalar_type();
  for (int64_t l = 0; l < levels; ++l)
    if (logits[l].scalar_type() != dtype || deltas[l].scalar_type() != dtype)
      dtype = ScalarType::Float;
  int64_t k = 0;  // candidates of the largest level
  for (int64_t l = 0; l < levels; ++l) {
    for (Tensor* map : {&logits[l], &deltas[l]}) {
      *map = torch::stable::to(*map, dtype);
      if (!is_head_map(*map)) *map = channels_last(*map);
    }
    k = std::max(k, std::min(pre_nms_top_k, logits[l].numel() / std::max<int64_t>(images, 1)));
  }
  cell_anchors = torch::stable::contiguous(torch::stable::to(cell_anchors, ScalarType::Float));
  sizes = torch::stable::contiguous(torch::stable::to(sizes, ScalarType::Long));

  const int64_t segments = images * levels, max_keep = std::min(k, post_nms_top_k);
  const auto floats = [&](std::vector<int64_t> shape) {
    return new_tensor(sizes, shape, ScalarType::Float);
  };
  Tensor out_boxes = floats({images, post_nms_top_k, 4});
  Tensor out_scores = floats({images, post_nms_top_k});
  Tensor boxes = floats({segments, k, 4}), scores = floats({segments, k});
  Tensor takes_part = new_tensor(sizes, {segments, k}, ScalarType::Byte);
  Tensor positions = new_tensor(sizes, {segments, max_keep}, ScalarType::Int);
  Tensor counts = new_tensor(sizes, {segments}, ScalarType::Int);
  auto* box_data = reinterpret_cast<Box<float>*>(boxes.mutable_data_ptr<float>());

  if (k > 0)
    dispatch_floating(dtype, "select_proposals", [&](auto zero) {
      using T = decltype(zero);
      const HeadMaps<T> maps = maps_of<T>(logits, deltas, strides);
      const int64_t parts = maps.first_part[levels], most_in_part = std::min<int64_t>(k, kPart);
      Tensor part_keys = new_tensor(sizes, {images, parts, most_in_part}, ScalarType::Long);
      auto* part_key_data = reinterpret_cast<uint64_t*>(part_keys.mutable_data_ptr<int64_t>());
      launch(device, select_parts<T>, {unsigned(parts), unsigned(images), 1}, kPartThreads, 0, maps,
             unsigned(most_in_part), part_key_data);

      constexpr int64_t kSharedKeys = 4096;
      const int64_t size = power_of_two(k);
      const bool in_shared = size <= kSharedKeys;
      Tensor sorted = new_tensor(sizes, {in_shared ? 0 : segments, size}, ScalarType::Long);
      launch(device, select_levels<T>, {unsigned(levels), unsigned(images), 1}, kLevelThreads,
             in_shared ? size * sizeof(uint64_t) : 0, maps, part_key_data, unsigned(most_in_part),
             cell_anchors.const_data_ptr<float>(), sizes.const_data_ptr<int64_t>(), unsigned(k),
             float(min_side), int(size),
             in_shared ? nullptr : reinterpret_cast<uint64_t*>(sorted.mutable_data_ptr<int64_t>()),
             box_data, scores.mutable_data_ptr<float>(), takes_part.mutable_data_ptr<uint8_t>());
    });
  suppress_sorted<float>(device, sizes, boxes.const_data_ptr<float>(), nullptr,
                         takes_part.const_data_ptr<uint8_t>(), segments, k, float(nms_threshold),
                         max_keep, positions.mutable_data_ptr<int32_t>(),
                         counts.mutable_data_ptr<int32_t>());

  constexpr int64_t kSharedScores = 12 << 10;
  const int64_t items = levels * max_keep;
  const bool in_shared = items <= kSharedScores;
  Tensor kept_scores = floats({in_shared ? 0 : images, items});
  launch(device, merge_levels, {unsigned(images), 1, 1}, kMergeThreads,
         in_shared ? items * sizeof(float) : 0, box_data, scores.const_data_ptr<float>(),
         positions.const_data_ptr<int32_t>(), counts.const_data_ptr<int32_t>(), int(levels), k,
         max_keep, in_shared ? nullptr : kept_scores.mutable_data_ptr<float>(), post_nms_top_k,
         reinterpret_cast<Box<float>*>(out_boxes.mutable_data_ptr<float>()),
         out_scores.mutable_data_ptr<float>());
  return {out_boxes, out_scores};
}

REGISTER_CUDA(m) { m.impl("select_proposals", BOX(select_proposals_cuda)); }

}  // namespace mrcnn
