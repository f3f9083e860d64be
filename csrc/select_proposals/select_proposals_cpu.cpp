// Selects proposals from the outputs of the RPN head: choose by logit, decode only the chosen
// anchors, clip, filter, NMS within each level, keep the best of each image.
#include <algorithm>
#include <cstring>
#include <limits>
#include <tuple>

#include "common/tensor.h"
#include "nms/nms.h"
#include "nms/rank.h"
#include "select_proposals/select_proposals.h"

namespace mrcnn {
namespace {

struct Proposal {
  Box<float> box;
  float score;
};

// Selects the proposals of one level of one image, best first.
std::vector<Proposal> select_level(const float* logits, const float* deltas, int64_t height,
                                   int64_t width, int64_t anchors, const float* cell_anchors,
                                   float step_y, float step_x, float image_height,
                                   float image_width, int64_t pre_nms_top_k, int64_t max_keep,
                                   float nms_threshold, float min_side) {
  std::vector<uint64_t> keys, scratch;
  select_best(logits, height * width * anchors, pre_nms_top_k, keys, scratch);

  const float weights[4] = {1, 1, 1, 1};
  KeptBoxes<float> kept;
  kept.start(nms_threshold);
  std::vector<Proposal> proposals;
  for (const uint64_t key : keys) {
    if (kept.size() == max_keep) break;
    const int64_t index = key_index(key);
    const Box<float> anchor = anchor_at(index, width, anchors, step_y, step_x, cell_anchors);
    const Box<float> box =
        clip(decode(anchor, deltas + index * 4, weights), image_height, image_width);
    // Negated, so that NaN is dropped, too.
    if (!(box.x2 - box.x1 > min_side && box.y2 - box.y1 > min_side)) continue;
    if (kept.add(box, 0)) proposals.push_back({box, logits[index]});
  }
  return proposals;
}

}  // namespace

std::tuple<Tensor, Tensor> select_proposals_cpu(std::vector<Tensor> logits,
                                                std::vector<Tensor> deltas, Tensor cell_anchors,
                                                std::vector<int64_t> strides, Tensor sizes,
                                                int64_t pre_nms_top_k, int64_t post_nms_top_k,
                                                double nms_threshold, double min_side) {
  check_proposals(logits, deltas, cell_anchors, strides, sizes, pre_nms_top_k, post_nms_top_k);
  const int64_t levels = int64_t(logits.size());
  const int64_t images = logits[0].size(0), anchors = logits[0].size(1);
  for (auto* maps : {&logits, &deltas})
    for (Tensor& map : *maps) map = channels_last(torch::stable::to(map, ScalarType::Float));
  cell_anchors = torch::stable::contiguous(torch::stable::to(cell_anchors, ScalarType::Float));
  sizes = torch::stable::contiguous(torch::stable::to(sizes, ScalarType::Long));
  const float* cell_data = cell_anchors.const_data_ptr<float>();
  const int64_t* size_data = sizes.const_data_ptr<int64_t>();

  std::vector<std::vector<Proposal>> level_proposals(images * levels);
  torch::stable::parallel_for(0, images * levels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t image = i / levels, level = i % levels;
      const int64_t height = logits[level].size(2), width = logits[level].size(3);
      const int64_t numel = height * width * anchors;
      level_proposals[i] = select_level(
          logits[level].const_data_ptr<float>() + image * numel,
          deltas[level].const_data_ptr<float>() + image * numel * 4, height, width, anchors,
          cell_data + level * anchors * 4, float(strides[2 * level]), float(strides[2 * level + 1]),
          float(size_data[image * 2]), float(size_data[image * 2 + 1]), pre_nms_top_k,
          post_nms_top_k, float(nms_threshold), float(min_side));
    }
  });

  Tensor boxes = new_tensor(sizes, {images, post_nms_top_k, 4}, ScalarType::Float);
  Tensor scores = new_tensor(sizes, {images, post_nms_top_k}, ScalarType::Float);
  float* box_data = boxes.mutable_data_ptr<float>();
  float* score_data = scores.mutable_data_ptr<float>();
  std::fill(box_data, box_data + boxes.numel(), 0.0f);
  std::fill(score_data, score_data + scores.numel(), -std::numeric_limits<float>::infinity());
  for (int64_t image = 0; image < images; ++image) {
    std::vector<Proposal> merged;
    for (int64_t level = 0; level < levels; ++level) {
      const auto& proposals = level_proposals[image * levels + level];
      merged.insert(merged.end(), proposals.begin(), proposals.end());
    }
    // Stable: ties go to the finer level.
    std::stable_sort(merged.begin(), merged.end(),
                     [](const Proposal& a, const Proposal& b) { return a.score > b.score; });
    const int64_t kept = std::min<int64_t>(post_nms_top_k, int64_t(merged.size()));
    for (int64_t i = 0; i < kept; ++i) {
      const int64_t slot = image * post_nms_top_k + i;
      std::memcpy(box_data + slot * 4, &merged[i].box, sizeof(Box<float>));
      score_data[slot] = merged[i].score;
    }
  }
  return {boxes, scores};
}

STABLE_TORCH_LIBRARY_IMPL(mrcnn, CPU, m) { m.impl("select_proposals", BOX(select_proposals_cpu)); }

}  // namespace mrcnn
