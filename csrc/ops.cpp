// The schemas of all ops, and the module whose import registers them. mrcnn/ops/reference.py and
// mrcnn/ops/reference_masks.py specify what each op computes.
#include <Python.h>
#include <torch/csrc/stable/library.h>

#include <array>
#include <string>

#include "build_info.h"
#include "common/isa.h"
#include "common/tensor.h"

// Read by mrcnn/ops/library.py to detect kernels that were built from other sources.
std::string build_info() {
  return std::string(MRCNN_BUILD_INFO) + ", " + mrcnn::isa_name() + " loops";
}

namespace mrcnn {
namespace {

// NMS of one segment without padding, on any device; returns as many indices as boxes are kept.
Tensor nms_indices(Tensor boxes, Tensor scores, Tensor groups, double iou_threshold) {
  using torch::stable::unsqueeze, torch::stable::detail::from, torch::stable::detail::to;
  std::array<StableIValue, 6> stack{from(unsqueeze(boxes, 0)),  from(unsqueeze(scores, 0)),
                                    from(unsqueeze(groups, 0)), from(iou_threshold),
                                    from(boxes.size(0)),        from(false)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("mrcnn::nms", "", stack.data(), TORCH_ABI_VERSION));
  Tensor indices = torch::stable::select(to<Tensor>(stack[0]), 0, 0);
  const torch::stable::Device host(torch::headeronly::DeviceType::CPU);
  const Tensor count = torch::stable::to(to<Tensor>(stack[1]), host);
  return torch::stable::narrow(indices, 0, 0, *count.const_data_ptr<int64_t>());
}

}  // namespace
}  // namespace mrcnn

STABLE_TORCH_LIBRARY(mrcnn, m) {
  m.def("build_info() -> str");

  m.def(
      "roi_align(Tensor[] features, Tensor boxes, Tensor image_index, float[] scales, "
      "int bins_h, int bins_w, int sampling_ratio, bool aligned, "
      "float canonical_size, int canonical_level) -> Tensor");
  m.def(
      "roi_align_backward(Tensor grad, Tensor[] features, Tensor boxes, Tensor image_index, "
      "float[] scales, int sampling_ratio, bool aligned, "
      "float canonical_size, int canonical_level) -> Tensor[]");

  m.def(
      "roi_pool(Tensor features, Tensor boxes, Tensor image_index, float scale, int bins_h, "
      "int bins_w, bool with_argmax) -> (Tensor, Tensor)");
  m.def(
      "roi_pool_backward(Tensor grad, Tensor argmax, Tensor image_index, int images, int height, "
      "int width) -> Tensor");

  m.def(
      "nms(Tensor boxes, Tensor scores, Tensor groups, float iou_threshold, int max_keep, "
      "bool padded=True) -> (Tensor, Tensor)");
  m.def("nms_indices(Tensor boxes, Tensor scores, Tensor groups, float iou_threshold) -> Tensor");

  m.def(
      "select_proposals(Tensor[] logits, Tensor[] deltas, Tensor cell_anchors, SymInt[] strides, "
      "Tensor sizes, int pre_nms_top_k, int post_nms_top_k, float nms_threshold, float min_side) "
      "-> (Tensor, Tensor)");
  m.def(
      "select_detections(Tensor scores, Tensor deltas, Tensor boxes, Tensor valid, Tensor sizes, "
      "float[] delta_weights, float score_threshold, float nms_threshold, float min_side, "
      "int max_detections) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");

  m.def(
      "match_boxes(Tensor boxes, Tensor targets, Tensor valid, float low_threshold, "
      "float high_threshold, bool low_quality) -> (Tensor, Tensor)");

  m.def(
      "mask_targets(Tensor points, Tensor ring_start, Tensor instance_ring, Tensor counts, "
      "Tensor instance_count, Tensor frame, Tensor transform, Tensor boxes, Tensor instance, "
      "int size) -> Tensor");

  m.def(
      "paste_masks(Tensor masks, Tensor boxes, int height, int width, float threshold) -> Tensor");
  m.def(
      "paste_masks_packed(Tensor masks, Tensor boxes, int height, int width, float threshold) "
      "-> Tensor");
  m.def(
      "paste_masks_rle(Tensor masks, Tensor boxes, int height, int width, float threshold) "
      "-> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(mrcnn, CompositeExplicitAutograd, m) {
  m.impl("build_info", TORCH_BOX(&build_info));
  m.impl("nms_indices", BOX(mrcnn::nms_indices));
}

// `import mrcnn_C` runs the registrations of all files linked into this library.
PyMODINIT_FUNC PyInit_mrcnn_C() {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "mrcnn_C", nullptr, -1, nullptr};
  return PyModule_Create(&module);
}
