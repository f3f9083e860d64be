// Which ground-truth box each box overlaps most, without the matrix of all overlaps.
#include <algorithm>
#include <mutex>
#include <tuple>

#include "common/box.h"
#include "common/tensor.h"

namespace mrcnn {
namespace {

constexpr int64_t kBlock = 256;  // boxes that meet all targets together, held as columns

struct BoxBlock {
  float x1[kBlock], y1[kBlock], x2[kBlock], y2[kBlock], area[kBlock];

  void load(const float* boxes, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      const Box<float> box = load_box(boxes + i * 4);
      x1[i] = box.x1, y1[i] = box.y1, x2[i] = box.x2, y2[i] = box.y2, area[i] = mrcnn::area(box);
    }
  }
};

// out[i] = IoU of box i and the target; both passes call this one function, so equal inputs give
// equal bits.
MULTIVERSION void overlaps(const BoxBlock& block, int64_t count, const Box<float>& target,
                           float target_area, float* out) {
  for (int64_t i = 0; i < count; ++i) {
    const Box<float> box{block.x1[i], block.y1[i], block.x2[i], block.y2[i]};
    out[i] = iou(box, block.area[i], target, target_area);
  }
}

}  // namespace

std::tuple<Tensor, Tensor> match_boxes_cpu(Tensor boxes, Tensor targets, Tensor valid,
                                           double low_threshold, double high_threshold,
                                           bool low_quality) {
  boxes = torch::stable::contiguous(torch::stable::to(boxes, ScalarType::Float));
  targets = torch::stable::contiguous(torch::stable::to(targets, ScalarType::Float));
  valid = torch::stable::contiguous(valid);
  const int64_t images = targets.size(0), slots = targets.size(1), count = boxes.size(1);
  const bool shared_boxes = boxes.size(0) == 1;  // anchors are the same for all images
  // In the precision of the overlaps: an IoU of 7 / 10 reaches 0.7.
  const float low = float(low_threshold), high = float(high_threshold);

  Tensor matched = new_tensor(boxes, {images, count}, ScalarType::Long);
  Tensor role = new_tensor(boxes, {images, count}, ScalarType::Char);
  const float* box_data = boxes.const_data_ptr<float>();
  const float* target_data = targets.const_data_ptr<float>();
  const bool* valid_data = valid.const_data_ptr<bool>();
  int64_t* matched_data = matched.mutable_data_ptr<int64_t>();
  int8_t* role_data = role.mutable_data_ptr<int8_t>();

  const int64_t blocks = (count + kBlock - 1) / kBlock;
  std::vector<float> best_of_target(images * slots, 0.0f);
  std::mutex merge;
  torch::stable::parallel_for(0, images * blocks, 8, [&](int64_t begin, int64_t end) {
    std::vector<float> best_here(images * slots, 0.0f);
    BoxBlock block;
    float best[kBlock], overlap[kBlock];
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n = i / blocks, first = i % blocks * kBlock;
      const int64_t size = std::min(kBlock, count - first);
      block.load(box_data + ((shared_boxes ? 0 : n * count) + first) * 4, size);
      int64_t* best_slot = matched_data + n * count + first;
      std::fill(best, best + size, 0.0f);
      std::fill(best_slot, best_slot + size, int64_t(0));
      for (int64_t g = 0; g < slots; ++g) {
        if (!valid_data[n * slots + g]) continue;
        const Box<float> target = load_box(target_data + (n * slots + g) * 4);
        overlaps(block, size, target, area(target), overlap);
        float most = 0;
        for (int64_t j = 0; j < size; ++j) {
          if (overlap[j] > best[j]) best[j] = overlap[j], best_slot[j] = g;
          most = overlap[j] > most ? overlap[j] : most;
        }
        best_here[n * slots + g] = std::max(best_here[n * slots + g], most);
      }
      for (int64_t j = 0; j < size; ++j)
        role_data[n * count + first + j] = best[j] >= high ? 1 : best[j] >= low ? -1 : 0;
    }
    const std::lock_guard<std::mutex> lock(merge);
    for (size_t g = 0; g < best_here.size(); ++g)
      best_of_target[g] = std::max(best_of_target[g], best_here[g]);
  });

  // Every target keeps the boxes that overlap it most, however little (Faster R-CNN, 3.1.2).
  if (low_quality)
    torch::stable::parallel_for(0, images * blocks, 8, [&](int64_t begin, int64_t end) {
      BoxBlock block;
      float overlap[kBlock];
      for (int64_t i = begin; i < end; ++i) {
        const int64_t n = i / blocks, first = i % blocks * kBlock;
        const int64_t size = std::min(kBlock, count - first);
        block.load(box_data + ((shared_boxes ? 0 : n * count) + first) * 4, size);
        for (int64_t g = 0; g < slots; ++g) {
          const float most = best_of_target[n * slots + g];
          if (!(most > 0)) continue;
          const Box<float> target = load_box(target_data + (n * slots + g) * 4);
          overlaps(block, size, target, area(target), overlap);
          for (int64_t j = 0; j < size; ++j)
            if (overlap[j] == most) role_data[n * count + first + j] = 1;
        }
      }
    });
  return {matched, role};
}

STABLE_TORCH_LIBRARY_IMPL(mrcnn, CPU, m) { m.impl("match_boxes", TORCH_BOX(&match_boxes_cpu)); }

}  // namespace mrcnn
