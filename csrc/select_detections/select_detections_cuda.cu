// Selects detections from the outputs of the box head on the GPU, in one launch. One block per
// image takes the best scores in rounds, decodes them and runs NMS, until it has kept enough.
#include <tuple>

#include "common/box.h"
#include "common/cuda.cuh"
#include "nms/select.cuh"
#include "select_detections/select_detections.h"

namespace mrcnn {
namespace {

constexpr int kThreads = 1024;
constexpr int kRound = 2048;  // candidates decoded and sorted at a time
constexpr int kTile =
    32;  // candidates compared with the kept boxes, and with each other, at a time
static_assert(kThreads == kTile * kWarpSize);

struct HeadRows {
  const float *scores, *deltas, *boxes;  // (N, R, C), (N, R, 4 or 4 C), (N, R, 4)
  const bool* valid;                     // (N, R)
  const int64_t* sizes;                  // (N, 2)
  int64_t rois, classes;
  bool class_agnostic;
  float weights[4];
};

struct Limits {
  float min_score, max_iou, min_side;
  int64_t max_detections;
};

// The kept detections, (N, max_detections, …); padded slots are 0 and -1.
struct Detected {
  Box<float>* boxes;
  float* scores;
  int64_t *labels, *rois, *counts;
};

struct Round {
  uint64_t keys[kRound];
  SelectScratch select;
  unsigned chosen, competing;
  // The current tile: candidates, whether each is alive, and the boxes of the tile it suppresses.
  Box<float> boxes[kTile];
  float areas[kTile];
  int64_t labels[kTile];
  bool alive[kTile];
  unsigned suppresses[kTile];
};

__global__ void __launch_bounds__(kThreads)
    select_detections_kernel(const __grid_constant__ HeadRows rows,
                             const __grid_constant__ Limits limits, Detected out) {
  SHARED(Round, round);
  const int64_t image = blockIdx.x, candidates = rows.rois * rows.classes;
  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  const float* scores = rows.scores + image * candidates;
  const bool* valid = rows.valid + image * rows.rois;
  const float height = float(rows.sizes[image * 2]), width = float(rows.sizes[image * 2 + 1]);
  out.boxes += image * limits.max_detections, out.scores += image * limits.max_detections;
  out.labels += image * limits.max_detections, out.rois += image * limits.max_detections;

  uint64_t below = ~uint64_t(0);  // keys of earlier rounds are at least this
  const auto key_at = [&](int64_t i) {
    const float score = scores[i];
    if (!(score > limits.min_score) || !valid[i / rows.classes]) return uint64_t(0);
    const uint64_t key = rank_key(score, uint32_t(i));
    return key < below ? key : 0;
  };
  int64_t kept = 0;
  while (kept < limits.max_detections) {
    // The remaining candidates mostly fit one round; only otherwise are the best ones selected.
    if (threadIdx.x == 0) round.competing = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < candidates; i += kThreads)
      if (const uint64_t key = key_at(i)) {
        const unsigned slot = atomicAdd(&round.competing, 1u);
        if (slot < kRound) round.keys[slot] = key;
      }
    __syncthreads();
    unsigned count = round.competing;
    if (count > kRound) {
      const uint64_t least = least_of_best<kThreads>(candidates, kRound, round.select, key_at);
      if (threadIdx.x == 0) round.chosen = 0;
      __syncthreads();
      for (int64_t i = threadIdx.x; i < candidates; i += kThreads)
        if (const uint64_t key = key_at(i); key >= least)
          round.keys[atomicAdd(&round.chosen, 1u)] = key;
      count = kRound;
    }
    const bool last_round = round.competing <= kRound;
    int size = 1;
    while (size < int(count)) size *= 2;
    for (int i = int(count) + threadIdx.x; i < size; i += kThreads) round.keys[i] = 0;
    __syncthreads();
    sort_falling<kThreads>(round.keys, size);

    for (unsigned first = 0; first < count && kept < limits.max_detections; first += kTile) {
      const unsigned in_tile = min(unsigned(kTile), count - first);
      if (threadIdx.x < in_tile) {
        const int64_t index = key_index(round.keys[first + threadIdx.x]);
        const int64_t roi = image * rows.rois + index / rows.classes, label = index % rows.classes;
        const float* delta = rows.class_agnostic ? rows.deltas + roi * 4
                                                 : rows.deltas + (roi * rows.classes + label) * 4;
        const Box<float> box =
            clip(decode(load_box(rows.boxes + roi * 4), delta, rows.weights), height, width);
        round.boxes[threadIdx.x] = box;
        round.areas[threadIdx.x] = area(box);
        round.labels[threadIdx.x] = label;
        // False for NaN.
        round.alive[threadIdx.x] =
            box.x2 - box.x1 > limits.min_side && box.y2 - box.y1 > limits.min_side;
      }
      __syncthreads();
      // One warp per candidate: its lanes are the kept boxes, then the later boxes of the tile.
      if (warp < int(in_tile)) {
        const Box<float> box = round.boxes[warp];
        const int64_t label = round.labels[warp];
        bool suppressed = false;
        for (int64_t i = lane; i < kept; i += kWarpSize) {
          const Box<float> other = out.boxes[i];
          suppressed |= out.labels[i] == label &&
                        iou(other, area(other), box, round.areas[warp]) > limits.max_iou;
        }
        const bool dropped = __any_sync(kAllLanes, suppressed);
        const bool overlaps =
            lane > warp && lane < int(in_tile) && round.labels[lane] == label &&
            iou(box, round.areas[warp], round.boxes[lane], round.areas[lane]) > limits.max_iou;
        const unsigned bits = __ballot_sync(kAllLanes, overlaps);
        if (lane == 0) {
          round.suppresses[warp] = bits;
          if (dropped) round.alive[warp] = false;
        }
      }
      __syncthreads();
      unsigned survivors = 0;  // in the tile; all threads compute the same
      for (unsigned i = 0; i < in_tile; ++i) survivors |= unsigned(round.alive[i]) << i;
      for (unsigned i = 0; i < in_tile; ++i)
        if (survivors >> i & 1) survivors &= ~round.suppresses[i];
      if (threadIdx.x < in_tile && survivors >> threadIdx.x & 1) {
        const int64_t slot = kept + __popc(survivors & ((1u << threadIdx.x) - 1));
        if (slot < limits.max_detections) {
          const int64_t index = key_index(round.keys[first + threadIdx.x]);
          out.boxes[slot] = round.boxes[threadIdx.x];
          out.scores[slot] = scores[index];
          out.labels[slot] = round.labels[threadIdx.x];
          out.rois[slot] = index / rows.classes;
        }
      }
      kept = min(kept + int64_t(__popc(survivors)), limits.max_detections);
      __syncthreads();  // the kept boxes are written, and the tile may be overwritten
    }
    if (last_round) break;
    below = round.keys[kRound - 1];
    __syncthreads();  // all threads have read it
  }
  for (int64_t i = kept + threadIdx.x; i < limits.max_detections; i += kThreads) {
    out.boxes[i] = {0, 0, 0, 0};
    out.scores[i] = 0;
    out.labels[i] = out.rois[i] = -1;
  }
  if (threadIdx.x == 0) out.counts[image] = kept;
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> select_detections_cuda(
    Tensor scores, Tensor deltas, Tensor boxes, Tensor valid, Tensor sizes,
    std::vector<double> delta_weights, double score_threshold, double nms_threshold,
    double min_side, int64_t max_detections) {
  check_detections(scores, deltas, boxes, valid, sizes, delta_weights, max_detections);
  const OnDevice device(scores);
  const int64_t images = scores.size(0), rois = scores.size(1), classes = scores.size(2);
  STD_TORCH_CHECK(rois * classes <= INT32_MAX,
                  "select_detections: an image must have less than 2^31 scores");
  for (Tensor* t : {&scores, &deltas, &boxes})
    *t = torch::stable::contiguous(torch::stable::to(*t, ScalarType::Float));
  valid = torch::stable::contiguous(valid);
  sizes = torch::stable::contiguous(torch::stable::to(sizes, ScalarType::Long));

  const std::vector<int64_t> slots = {images, max_detections};
  Tensor out_boxes = new_tensor(scores, {images, max_detections, 4}, ScalarType::Float);
  Tensor out_scores = new_tensor(scores, slots, ScalarType::Float);
  Tensor out_labels = new_tensor(scores, slots, ScalarType::Long);
  Tensor out_rois = new_tensor(scores, slots, ScalarType::Long);
  Tensor out_counts = new_tensor(scores, {images}, ScalarType::Long);
  HeadRows rows = {scores.const_data_ptr<float>(),
                   deltas.const_data_ptr<float>(),
                   boxes.const_data_ptr<float>(),
                   valid.const_data_ptr<bool>(),
                   sizes.const_data_ptr<int64_t>(),
                   rois,
                   classes,
                   deltas.size(2) == 4,
                   {}};
  for (int i = 0; i < 4; ++i) rows.weights[i] = float(delta_weights[i]);
  // Thresholds have the precision of the compared values: a score of 0.05 does not exceed 0.05.
  const Limits limits = {float(score_threshold), float(nms_threshold), float(min_side),
                         max_detections};
  const Detected out = {
      reinterpret_cast<Box<float>*>(out_boxes.mutable_data_ptr<float>()),
      out_scores.mutable_data_ptr<float>(), out_labels.mutable_data_ptr<int64_t>(),
      out_rois.mutable_data_ptr<int64_t>(), out_counts.mutable_data_ptr<int64_t>()};
  launch(device, select_detections_kernel, {unsigned(images), 1, 1}, kThreads, 0, rows, limits,
         out);
  return {out_boxes, out_scores, out_labels, out_rois, out_counts};
}

REGISTER_CUDA(m) { m.impl("select_detections", BOX(select_detections_cuda)); }

}  // namespace mrcnn
