// NMS of independent segments (images, or images x levels) with outputs of fixed size.
#include <algorithm>
#include <limits>
#include <tuple>
#include <type_traits>

#include "common/tensor.h"
#include "nms/nms.h"
#include "nms/nms_arguments.h"
#include "nms/rank.h"

namespace mrcnn {
namespace {

// Sorts the indices of the boxes that compete, best first; ties go to the lower index.
class Order {
 public:
  template <typename T>
  const std::vector<int64_t>& of(const T* scores, const T* boxes, int64_t count, bool padded) {
    order_.clear();
    const auto box_competes = [&](int64_t i) {
      return !padded ||
             (scores[i] > -std::numeric_limits<T>::infinity() && !has_nan(load_box(boxes + i * 4)));
    };
    if constexpr (std::is_same_v<T, float>) {
      constexpr T kNan = std::numeric_limits<T>::quiet_NaN();  // one of the many, so that they tie
      keys_.clear();
      for (int64_t i = 0; i < count; ++i)
        if (box_competes(i))
          keys_.push_back(rank_key(scores[i] == scores[i] ? scores[i] : kNan, uint32_t(i)));
      sort_keys(keys_, scratch_);
      for (const uint64_t key : keys_) order_.push_back(key_index(key));
    } else {
      for (int64_t i = 0; i < count; ++i)
        if (box_competes(i)) order_.push_back(i);
      std::stable_sort(order_.begin(), order_.end(),
                       [&](int64_t a, int64_t b) { return better(scores[a], scores[b]); });
    }
    return order_;
  }

 private:
  std::vector<int64_t> order_;
  std::vector<uint64_t> keys_, scratch_;
};

}  // namespace

std::tuple<Tensor, Tensor> nms_cpu(Tensor boxes, Tensor scores, Tensor groups, double iou_threshold,
                                   int64_t max_keep, bool padded) {
  check_nms(boxes, scores, groups, max_keep);
  const ScalarType dtype =
      boxes.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  boxes = torch::stable::contiguous(torch::stable::to(boxes, dtype));
  scores = torch::stable::contiguous(torch::stable::to(scores, dtype));
  groups = torch::stable::contiguous(groups);
  const int64_t segments = boxes.size(0), count = boxes.size(1);
  const int64_t* group_data = groups.numel() ? groups.const_data_ptr<int64_t>() : nullptr;

  Tensor indices = new_tensor(boxes, {segments, max_keep}, ScalarType::Long);
  Tensor counts = new_tensor(boxes, {segments}, ScalarType::Long);
  int64_t* index_data = indices.mutable_data_ptr<int64_t>();
  int64_t* count_data = counts.mutable_data_ptr<int64_t>();
  std::fill(index_data, index_data + segments * max_keep, int64_t(-1));

  dispatch_floating(dtype, "nms", [&](auto zero) {
    using T = typename Accumulate<decltype(zero)>::type;
    const T* box_data = boxes.const_data_ptr<T>();
    const T* score_data = scores.const_data_ptr<T>();
    torch::stable::parallel_for(0, segments, 1, [&](int64_t begin, int64_t end) {
      KeptBoxes<T> kept;
      Order order;
      for (int64_t s = begin; s < end; ++s) {
        const T* segment_boxes = box_data + s * count * 4;
        const auto& best_first = order.of(score_data + s * count, segment_boxes, count, padded);
        kept.start(T(iou_threshold));
        for (const int64_t i : best_first) {
          if (kept.size() == max_keep) break;
          const int64_t group = group_data ? group_data[s * count + i] : 0;
          if (kept.add(load_box(segment_boxes + i * 4), group))
            index_data[s * max_keep + kept.size() - 1] = i;
        }
        count_data[s] = kept.size();
      }
    });
  });
  return {indices, counts};
}

STABLE_TORCH_LIBRARY_IMPL(mrcnn, CPU, m) { m.impl("nms", BOX(nms_cpu)); }

}  // namespace mrcnn
