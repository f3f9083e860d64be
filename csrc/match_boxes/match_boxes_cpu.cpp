// Finds the target that each box overlaps most, without storing the matrix of all overlaps.
#include <algorithm>
#include <limits>
#include <tuple>

#include "common/box.h"
#include "common/tensor.h"
#include "match_boxes/match_boxes.h"

namespace mrcnn {
namespace {

constexpr int64_t kBlock = 256;  // boxes compared with a target at a time

// Boxes as columns, and their hull. Anchors that are neighbours in memory are neighbours in the
// image, so most targets are outside of most hulls.
struct BoxBlock {
  int64_t count;
  float x1[kBlock], y1[kBlock], x2[kBlock], y2[kBlock], area[kBlock];
  Box<float> hull;

  // If this is false, no box overlaps the target.
  bool near(const Box<float>& target) const {
    return target.x1 < hull.x2 && target.x2 > hull.x1 && target.y1 < hull.y2 && target.y2 > hull.y1;
  }
};

// The largest overlap of each box of a block, and the target it is with.
struct BestTargets {
  float overlap[kBlock];
  int32_t slot[kBlock];
};

}  // namespace
}  // namespace mrcnn

#define LOOPS "match_boxes/match_boxes_loops.h"
#include "common/each_isa.h"

namespace mrcnn {

std::tuple<Tensor, Tensor> match_boxes_cpu(Tensor boxes, Tensor targets, Tensor valid,
                                           double low_threshold, double high_threshold,
                                           bool low_quality) {
  check_match_boxes(boxes, targets, valid);
  boxes = torch::stable::contiguous(torch::stable::to(boxes, ScalarType::Float));
  targets = torch::stable::contiguous(torch::stable::to(targets, ScalarType::Float));
  valid = torch::stable::contiguous(valid);
  const int64_t images = targets.size(0), slots = targets.size(1), count = boxes.size(1);
  const bool shared_boxes = boxes.size(0) == 1;  // anchors are the same for all images
  // Thresholds have the precision of the overlaps: an IoU of 7 / 10 reaches 0.7.
  const float low = float(low_threshold), high = float(high_threshold);

  Tensor matched = new_tensor(boxes, {images, count}, ScalarType::Long);
  Tensor role = new_tensor(boxes, {images, count}, ScalarType::Char);
  const float* box_data = boxes.const_data_ptr<float>();
  const float* target_data = targets.const_data_ptr<float>();
  const bool* valid_data = valid.const_data_ptr<bool>();
  int64_t* matched_data = matched.mutable_data_ptr<int64_t>();
  int8_t* role_data = role.mutable_data_ptr<int8_t>();

  const int64_t blocks = (count + kBlock - 1) / kBlock;
  const int64_t grain = 1024 / (slots + 1) + 1;
  const auto load = [&](int64_t i, BoxBlock& block) {
    const int64_t n = i / blocks, first = i % blocks * kBlock;
    BY_ISA(load_block(box_data + ((shared_boxes ? 0 : n * count) + first) * 4,
                      std::min(kBlock, count - first), block));
    return n * count + first;  // position of its results
  };

  // The largest overlap of each target within each block (images, blocks, slots).
  std::vector<float> most_in_block(images * blocks * slots, 0.0f);
  torch::stable::parallel_for(0, images * blocks, grain, [&](int64_t begin, int64_t end) {
    BoxBlock block;
    BestTargets best;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t out = load(i, block), n = i / blocks;
      std::fill(best.overlap, best.overlap + kBlock, 0.0f);
      std::fill(best.slot, best.slot + kBlock, 0);
      for (int64_t g = 0; g < slots; ++g) {
        const Box<float> target = load_box(target_data + (n * slots + g) * 4);
        if (valid_data[n * slots + g] && block.near(target))
          most_in_block[i * slots + g] = BY_ISA(raise_best(block, target, int32_t(g), best));
      }
      BY_ISA(write_matches(best, block.count, low, high, matched_data + out, role_data + out));
    }
  });
  if (!low_quality) return {matched, role};

  // The boxes that overlap a target most are positive, however little (Faster R-CNN, 3.1.2).
  std::vector<float> most(images * slots, 0.0f);
  for (int64_t i = 0; i < images * blocks; ++i)
    for (int64_t g = 0; g < slots; ++g) {
      float& largest = most[i / blocks * slots + g];
      largest = std::max(largest, most_in_block[i * slots + g]);
    }
  // Few blocks have such a box, so threads would not pay off.
  BoxBlock block;
  for (int64_t i = 0; i < images * blocks; ++i)
    for (int64_t g = 0; g < slots; ++g) {
      const int64_t t = i / blocks * slots + g;
      if (most_in_block[i * slots + g] != most[t] || most[t] == 0) continue;
      int8_t* block_role = role_data + load(i, block);
      BY_ISA(mark_equal(block, load_box(target_data + t * 4), most[t], block_role));
    }
  return {matched, role};
}

STABLE_TORCH_LIBRARY_IMPL(mrcnn, CPU, m) { m.impl("match_boxes", BOX(match_boxes_cpu)); }

}  // namespace mrcnn
