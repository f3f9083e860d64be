// Selects detections from the outputs of the box head: threshold, decode, clip, NMS within each
// class, keep the best of each image.
#include <algorithm>
#include <cstring>
#include <tuple>

#include "common/tensor.h"
#include "nms/nms.h"
#include "nms/rank.h"
#include "select_detections/select_detections.h"

namespace mrcnn {

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> select_detections_cpu(
    Tensor scores, Tensor deltas, Tensor boxes, Tensor valid, Tensor sizes,
    std::vector<double> delta_weights, double score_threshold, double nms_threshold,
    double min_side, int64_t max_detections) {
  check_detections(scores, deltas, boxes, valid, sizes, delta_weights, max_detections);
  const int64_t images = scores.size(0), rois = scores.size(1), classes = scores.size(2);
  const bool class_agnostic = deltas.size(2) == 4;
  for (Tensor* t : {&scores, &deltas, &boxes})
    *t = torch::stable::contiguous(torch::stable::to(*t, ScalarType::Float));
  valid = torch::stable::contiguous(valid);
  sizes = torch::stable::contiguous(torch::stable::to(sizes, ScalarType::Long));

  Tensor out_boxes = new_tensor(scores, {images, max_detections, 4}, ScalarType::Float);
  Tensor out_scores = new_tensor(scores, {images, max_detections}, ScalarType::Float);
  Tensor out_labels = new_tensor(scores, {images, max_detections}, ScalarType::Long);
  Tensor out_rois = new_tensor(scores, {images, max_detections}, ScalarType::Long);
  Tensor out_counts = new_tensor(scores, {images}, ScalarType::Long);

  const float* score_data = scores.const_data_ptr<float>();
  const float* delta_data = deltas.const_data_ptr<float>();
  const float* box_data = boxes.const_data_ptr<float>();
  const bool* valid_data = valid.const_data_ptr<bool>();
  const int64_t* size_data = sizes.const_data_ptr<int64_t>();
  float* out_box_data = out_boxes.mutable_data_ptr<float>();
  float* out_score_data = out_scores.mutable_data_ptr<float>();
  int64_t* out_label_data = out_labels.mutable_data_ptr<int64_t>();
  int64_t* out_roi_data = out_rois.mutable_data_ptr<int64_t>();
  int64_t* out_count_data = out_counts.mutable_data_ptr<int64_t>();
  const float weights[4] = {float(delta_weights[0]), float(delta_weights[1]),
                            float(delta_weights[2]), float(delta_weights[3])};
  // Thresholds have the precision of the compared values: a score of 0.05 does not exceed 0.05.
  const float min_score = float(score_threshold), max_iou = float(nms_threshold);
  const float side = float(min_side);

  torch::stable::parallel_for(0, images, 1, [&](int64_t begin, int64_t end) {
    KeptBoxes<float> kept;
    std::vector<uint64_t> keys, scratch;
    for (int64_t n = begin; n < end; ++n) {
      const float* image_scores = score_data + n * rois * classes;
      keys.clear();
      for (int64_t i = 0; i < rois * classes; ++i)
        if (image_scores[i] > min_score && valid_data[n * rois + i / classes])
          keys.push_back(rank_key(image_scores[i], uint32_t(i)));
      sort_keys(keys, scratch);

      kept.start(max_iou);
      float* box_out = out_box_data + n * max_detections * 4;
      float* score_out = out_score_data + n * max_detections;
      int64_t* label_out = out_label_data + n * max_detections;
      int64_t* roi_out = out_roi_data + n * max_detections;
      std::fill(box_out, box_out + max_detections * 4, 0.0f);
      std::fill(score_out, score_out + max_detections, 0.0f);
      std::fill(label_out, label_out + max_detections, int64_t(-1));
      std::fill(roi_out, roi_out + max_detections, int64_t(-1));
      for (const uint64_t key : keys) {
        const int64_t slot = kept.size();
        if (slot == max_detections) break;
        const int64_t index = key_index(key), roi = index / classes, label = index % classes;
        const float* delta = class_agnostic ? delta_data + (n * rois + roi) * 4
                                            : delta_data + ((n * rois + roi) * classes + label) * 4;
        const Box<float> box =
            clip(decode(load_box(box_data + (n * rois + roi) * 4), delta, weights),
                 float(size_data[n * 2]), float(size_data[n * 2 + 1]));
        // Negated, so that NaN is dropped, too.
        if (!(box.x2 - box.x1 > side && box.y2 - box.y1 > side)) continue;
        if (!kept.add(box, label)) continue;
        std::memcpy(box_out + slot * 4, &box, sizeof(box));
        score_out[slot] = image_scores[index];
        label_out[slot] = label;
        roi_out[slot] = roi;
      }
      out_count_data[n] = kept.size();
    }
  });
  return {out_boxes, out_scores, out_labels, out_rois, out_counts};
}

STABLE_TORCH_LIBRARY_IMPL(mrcnn, CPU, m) {
  m.impl("select_detections", BOX(select_detections_cpu));
}

}  // namespace mrcnn
