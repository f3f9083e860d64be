// NMS on the GPU: boxes are sorted, then suppressed. Up to kSmall boxes take a single launch.
#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <tuple>
#include <type_traits>

#include "nms/candidates.cuh"
#include "nms/nms.cuh"
#include "nms/nms_arguments.h"
#include "nms/rank.h"

namespace mrcnn {
namespace {

constexpr int kThreads = 256;
constexpr int kSortedByBlock = 4096;  // upper bound: the keys of so many boxes fit 48 KB

template <typename T>
constexpr T kNever = -std::numeric_limits<T>::infinity();  // the key of unused slots

template <typename T>
__device__ __forceinline__ T key_of(const T* boxes, const T* scores, int64_t i, bool padded) {
  if (!padded) return scores[i];
  return scores[i] > kNever<T> && !has_nan(load_box(boxes + i * 4)) ? scores[i] : kNever<T>;
}

template <typename T>
__device__ __forceinline__ bool competes_with(T key, bool padded) {
  return !padded || key > kNever<T>;
}

// Sorts the keys of a segment and their indices in shared memory, best first, ties to the lower
// index. `key` and `index` have room for the next power of two.
template <typename T>
__device__ __forceinline__ void sort_segment(const T* boxes, const T* scores, int count,
                                             bool padded, T* key, int* index) {
  int size = 1;
  while (size < count) size *= 2;
  for (int i = threadIdx.x; i < size; i += blockDim.x) {
    key[i] = i < count ? key_of(boxes, scores, i, padded) : kNever<T>;
    index[i] = i;
  }
  __syncthreads();
  for (int run = 2; run <= size; run *= 2)  // bitonic
    for (int stride = run / 2; stride > 0; stride /= 2) {
      for (int pair = threadIdx.x; pair < size / 2; pair += blockDim.x) {
        const int i = 2 * pair - (pair & (stride - 1)), j = i + stride;
        const T a = key[i], b = key[j];
        const bool ordered = better(a, b) || (!better(b, a) && index[i] < index[j]);
        if (ordered != ((i & run) == 0)) {
          key[i] = b, key[j] = a;
          const int moved = index[i];
          index[i] = index[j], index[j] = moved;
        }
      }
      // Up to a stride of kWarpSize, no other warp accesses the boxes of a warp's pairs.
      const int next = stride > 1 ? stride / 2 : run;
      if (max(stride, next) > kWarpSize)
        __syncthreads();
      else
        __syncwarp();
    }
  __syncthreads();
}

// The boxes of all segments, best first.
template <typename T>
struct Sorted {
  T* boxes;
  int64_t* groups;  // nullptr if there are none
  uint8_t* competes;
  int64_t* order;  // their indices in the segment before sorting
};

template <typename T>
__device__ __forceinline__ void write_sorted(const Sorted<T>& sorted, const T* boxes,
                                             const int64_t* groups, int64_t to, int64_t from,
                                             bool competes, int64_t index) {
  const Box<T> box = load_box(boxes + from * 4);
  T* out = sorted.boxes + to * 4;
  out[0] = box.x1, out[1] = box.y1, out[2] = box.x2, out[3] = box.y2;
  if (groups != nullptr) sorted.groups[to] = groups[from];
  sorted.competes[to] = competes;
  sorted.order[to] = index;
}

template <typename T>
__global__ void __launch_bounds__(1024)
    sort_kernel(const T* boxes, const T* scores, const int64_t* groups, int count, int size,
                bool padded, const __grid_constant__ Sorted<T> sorted) {
  DYNAMIC_SHARED(T, key);
  int* index = reinterpret_cast<int*>(key + size);
  const int64_t first = int64_t(blockIdx.x) * count;
  sort_segment(boxes + first * 4, scores + first, count, padded, key, index);
  for (int i = threadIdx.x; i < count; i += blockDim.x)
    write_sorted(sorted, boxes, groups, first + i, first + index[i], competes_with(key[i], padded),
                 index[i]);
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    make_keys(const T* boxes, const T* scores, int64_t total, bool padded, T* keys) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= total) return;
  const T key = key_of(boxes, scores, i, padded);
  // Adding 0 turns -0 into 0, which ranks the same; so does one NaN for all.
  keys[i] = key == key ? key + T(0) : std::numeric_limits<T>::quiet_NaN();
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    gather_sorted(const T* boxes, const int64_t* groups, const T* keys, int64_t count,
                  int64_t total, bool padded, const __grid_constant__ Sorted<T> sorted) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= total) return;
  const int64_t index = sorted.order[i];
  write_sorted(sorted, boxes, groups, i, i / count * count + index, competes_with(keys[i], padded),
               index);
}

template <typename T>
__global__ void __launch_bounds__(kSmall)
    nms_small_kernel(const T* boxes, const T* scores, const int64_t* groups, int count, bool padded,
                     const __grid_constant__ Threshold<T> threshold, int64_t max_keep,
                     int64_t* indices, int64_t* counts) {
  SHARED(SmallSegment<T>, segment);
  SHARED(T[kSmall], key);
  SHARED(int[kSmall], index);
  const int64_t first = int64_t(blockIdx.x) * count;
  sort_segment(boxes + first * 4, scores + first, count, padded, key, index);
  const int t = threadIdx.x;
  bool alive = false;
  if (t < count) {
    alive = competes_with(key[t], padded);
    segment.candidate[t] = load_candidate(boxes, first + index[t]);
    segment.group[t] = group_of(groups, first + index[t]);
  }
  __syncthreads();
  suppress_small(segment, alive, count, threshold, max_keep, &index[0],
                 indices + blockIdx.x * max_keep, counts + blockIdx.x);
}

__global__ void __launch_bounds__(kThreads)
    write_indices(const int32_t* positions, const int32_t* kept, const int64_t* order,
                  int64_t segments, int64_t count, int64_t columns, int64_t max_keep,
                  int64_t* indices, int64_t* counts) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i < segments) counts[i] = kept[i];
  if (i >= segments * max_keep) return;
  const int64_t segment = i / max_keep, slot = i % max_keep;
  indices[i] =
      slot < kept[segment] ? order[segment * count + positions[segment * columns + slot]] : -1;
}

// Calls aten::sort: stable, descending, along the last dimension.
std::tuple<Tensor, Tensor> stable_sort(const Tensor& keys) {
  using torch::stable::detail::from, torch::stable::detail::to;
  std::array<StableIValue, 4> stack{from(keys), from(std::optional<bool>(true)), from(int64_t(-1)),
                                    from(true)};
  STD_TORCH_CHECK(
      torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION) == 0,
      "nms: aten::sort failed");
  return {to<Tensor>(stack[0]), to<Tensor>(stack[1])};
}

}  // namespace

std::tuple<Tensor, Tensor> nms_cuda(Tensor boxes, Tensor scores, Tensor groups,
                                    double iou_threshold, int64_t max_keep, bool padded) {
  check_nms(boxes, scores, groups, max_keep);
  const OnDevice device(boxes);
  const ScalarType dtype =
      boxes.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  boxes = torch::stable::contiguous(torch::stable::to(boxes, dtype));
  scores = torch::stable::contiguous(torch::stable::to(scores, dtype));
  groups = torch::stable::contiguous(groups);
  const int64_t segments = boxes.size(0), count = boxes.size(1), total = segments * count;
  const int64_t* group_data = groups.numel() ? groups.const_data_ptr<int64_t>() : nullptr;

  Tensor indices = new_tensor(boxes, {segments, max_keep}, ScalarType::Long);
  Tensor counts = new_tensor(boxes, {segments}, ScalarType::Long);
  if (segments == 0) return {indices, counts};
  int64_t* index_data = indices.mutable_data_ptr<int64_t>();
  int64_t* count_data = counts.mutable_data_ptr<int64_t>();

  dispatch_floating(dtype, "nms", [&](auto zero) {
    using T = typename Accumulate<decltype(zero)>::type;
    const T* box_data = boxes.const_data_ptr<T>();
    const T* score_data = scores.const_data_ptr<T>();
    if (count <= kSmall)
      return launch(device, nms_small_kernel<T>, grid_of(segments), small_threads(count), 0,
                    box_data, score_data, group_data, int(count), padded,
                    Threshold<T>(T(iou_threshold)), max_keep, index_data, count_data);

    Tensor sorted_boxes = new_tensor(boxes, {segments, count, 4}, dtype);
    Tensor sorted_groups = new_tensor(boxes, {group_data ? total : 0}, ScalarType::Long);
    Tensor competes = new_tensor(boxes, {segments, count}, ScalarType::Byte);
    const auto sorted_into = [&](Tensor& order) {
      return Sorted<T>{sorted_boxes.mutable_data_ptr<T>(),
                       group_data ? sorted_groups.mutable_data_ptr<int64_t>() : nullptr,
                       competes.mutable_data_ptr<uint8_t>(), order.mutable_data_ptr<int64_t>()};
    };
    const dim3 grid = grid_of(ceil_div(total, kThreads));
    Tensor order;
    if (count <= kSortedByBlock) {
      order = new_tensor(boxes, {segments, count}, ScalarType::Long);
      int size = 1;
      while (size < count) size *= 2;
      launch(device, sort_kernel<T>, grid_of(segments), std::min(size / 2, 1024),
             size * (sizeof(T) + sizeof(int)), box_data, score_data, group_data, int(count), size,
             padded, sorted_into(order));
    } else {
      Tensor keys = new_tensor(boxes, {segments, count}, dtype);
      launch(device, make_keys<T>, grid, kThreads, 0, box_data, score_data, total, padded,
             keys.mutable_data_ptr<T>());
      std::tie(keys, order) = stable_sort(keys);
      launch(device, gather_sorted<T>, grid, kThreads, 0, box_data, group_data,
             keys.const_data_ptr<T>(), count, total, padded, sorted_into(order));
    }

    const int64_t columns = std::min(max_keep, count);
    Tensor positions = new_tensor(boxes, {segments, columns}, ScalarType::Int);
    Tensor kept = new_tensor(boxes, {segments}, ScalarType::Int);
    const Sorted<T> sorted = sorted_into(order);
    suppress_sorted<T>(device, boxes, sorted.boxes, sorted.groups, sorted.competes, segments, count,
                       T(iou_threshold), columns, positions.mutable_data_ptr<int32_t>(),
                       kept.mutable_data_ptr<int32_t>());
    launch(device, write_indices,
           grid_of(ceil_div(segments * std::max<int64_t>(max_keep, 1), kThreads)), kThreads, 0,
           positions.const_data_ptr<int32_t>(), kept.const_data_ptr<int32_t>(), sorted.order,
           segments, count, columns, max_keep, index_data, count_data);
  });
  return {indices, counts};
}

REGISTER_CUDA(m) { m.impl("nms", BOX(nms_cuda)); }

}  // namespace mrcnn
