// Greedy non-maximum suppression on the host, used alone and inside the selection ops.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "common/box.h"
#include "common/tensor.h"

namespace mrcnn {

// One 64-bit key orders candidates by falling score, then by rising index: larger keys come first.
// Floats compare like their bits once negative ones are flipped.
inline uint64_t rank_key(float score, uint32_t index) {
  score += 0.0f;  // -0 ranks with 0
  uint32_t bits;
  std::memcpy(&bits, &score, 4);
  bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return uint64_t(bits) << 32 | (0xFFFFFFFFu - index);
}

inline uint32_t key_index(uint64_t key) { return 0xFFFFFFFFu - uint32_t(key); }

// Boxes kept so far, as columns, so that a candidate meets several of them per instruction.
template <typename T>
class KeptBoxes {
 public:
  void clear() { size_ = 0; }
  int64_t size() const { return size_; }

  // Adds `box` unless a kept box of its group overlaps it by more than `threshold`, which has the
  // precision of the overlaps: an IoU of 3 / 10 does not exceed 0.3.
  bool add(const Box<T>& box, int64_t group, T threshold) {
    const T box_area = area(box);
    if (suppressed(box, box_area, group, threshold)) return false;
    if (size_ == int64_t(x1_.size())) {
      const size_t capacity = x1_.empty() ? 256 : 2 * x1_.size();
      for (auto* column : {&x1_, &y1_, &x2_, &y2_, &area_}) column->resize(capacity);
      group_.resize(capacity);
    }
    x1_[size_] = box.x1, y1_[size_] = box.y1, x2_[size_] = box.x2, y2_[size_] = box.y2;
    area_[size_] = box_area, group_[size_] = group;
    ++size_;
    return true;
  }

 private:
  bool suppressed(const Box<T>& box, T box_area, int64_t group, T threshold) const {
    return suppressed_by(box, box_area, group, threshold, x1_.data(), y1_.data(), x2_.data(),
                         y2_.data(), area_.data(), group_.data(), size_);
  }

  MULTIVERSION static bool suppressed_by(const Box<T>& box, T box_area, int64_t group, T threshold,
                                         const T* x1, const T* y1, const T* x2, const T* y2,
                                         const T* areas, const int64_t* groups, int64_t size) {
    constexpr int64_t kBlock = 64;
    for (int64_t i = 0; i < size; i += kBlock) {
      const int64_t end = i + kBlock < size ? i + kBlock : size;
      int hits = 0;
      for (int64_t j = i; j < end; ++j) {
        const Box<T> kept{x1[j], y1[j], x2[j], y2[j]};
        hits += (iou(kept, areas[j], box, box_area) > threshold) & (groups[j] == group);
      }
      if (hits) return true;
    }
    return false;
  }

  std::vector<T> x1_, y1_, x2_, y2_, area_;
  std::vector<int64_t> group_;
  int64_t size_ = 0;
};

}  // namespace mrcnn
