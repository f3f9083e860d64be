// Boxes: xyxy, right and bottom exclusive, width = x2 - x1.
#pragma once

#include <cmath>

#include "common/device.h"

namespace mrcnn {

template <typename T>
struct Box {
  T x1, y1, x2, y2;
};

template <typename T>
HOST_DEVICE Box<T> load_box(const T* p) {
  return {p[0], p[1], p[2], p[3]};
}

// A reversed box is empty. NaN stays NaN, so that a box with NaN has an IoU of NaN with all others.
template <typename T>
HOST_DEVICE T positive(T value) {
  return value < 0 ? T(0) : value;
}

template <typename T>
HOST_DEVICE T area(const Box<T>& b) {
  return positive(b.x2 - b.x1) * positive(b.y2 - b.y1);
}

template <typename T>
HOST_DEVICE T intersection(const Box<T>& a, const Box<T>& b) {
  const T width = (a.x2 < b.x2 ? a.x2 : b.x2) - (a.x1 > b.x1 ? a.x1 : b.x1);
  const T height = (a.y2 < b.y2 ? a.y2 : b.y2) - (a.y1 > b.y1 ? a.y1 : b.y1);
  return positive(width) * positive(height);
}

// NaN if both boxes have no area or one has NaN, so that it exceeds no threshold.
template <typename T>
HOST_DEVICE T iou(const Box<T>& a, T area_a, const Box<T>& b, T area_b) {
  const T overlap = intersection(a, b);
  return overlap / (area_a + area_b - overlap);
}

template <typename T>
HOST_DEVICE bool finite(const Box<T>& b) {
  // x - x is 0 only for finite x.
  return b.x1 - b.x1 == 0 && b.y1 - b.y1 == 0 && b.x2 - b.x2 == 0 && b.y2 - b.y2 == 0;
}

template <typename T>
HOST_DEVICE bool has_nan(const Box<T>& b) {
  return b.x1 != b.x1 || b.y1 != b.y1 || b.x2 != b.x2 || b.y2 != b.y2;
}

// Applies R-CNN's (dx, dy, dw, dh), each divided by its weight, to a reference box. Growth is
// limited to 1000 / 16, as in Detectron2 and torchvision, so that exp cannot overflow.
template <typename T>
HOST_DEVICE Box<T> decode(const Box<T>& reference, const T* delta, const T* weights) {
  const T limit = T(4.135166556742356);  // log(1000 / 16)
  const T width = reference.x2 - reference.x1, height = reference.y2 - reference.y1;
  const T dw = delta[2] / weights[2], dh = delta[3] / weights[3];
  const T center_x = delta[0] / weights[0] * width + (reference.x1 + T(0.5) * width);
  const T center_y = delta[1] / weights[1] * height + (reference.y1 + T(0.5) * height);
  // A NaN delta stays NaN: the box is dropped later.
  const T half_width = T(0.5) * width * std::exp(dw > limit ? limit : dw);
  const T half_height = T(0.5) * height * std::exp(dh > limit ? limit : dh);
  return {center_x - half_width, center_y - half_height, center_x + half_width,
          center_y + half_height};
}

template <typename T>
HOST_DEVICE T clamp(T value, T high) {
  return value < 0 ? T(0) : value > high ? high : value;  // NaN stays NaN
}

template <typename T>
HOST_DEVICE Box<T> clip(const Box<T>& b, T height, T width) {
  return {clamp(b.x1, width), clamp(b.y1, height), clamp(b.x2, width), clamp(b.y2, height)};
}

}  // namespace mrcnn
