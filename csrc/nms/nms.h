// Greedy non-maximum suppression on the host, used by nms and by the selection ops. The
// specification is `nms` in mrcnn/ops/reference.py.
#pragma once

#include <cstdint>
#include <vector>

#include "common/box.h"

namespace mrcnn {

constexpr int64_t kBlockBoxes = 16;

// Kept boxes as columns, so that one instruction compares a candidate with several of them.
template <typename T>
struct alignas(64) KeptBlock {
  T x1[kBlockBoxes], y1[kBlockBoxes], x2[kBlockBoxes], y2[kBlockBoxes], area[kBlockBoxes];
  int32_t size, next;  // next block of the chain, -1 at its end
};

// The boxes kept so far, in chains of blocks. A candidate is compared only with the chains that can
// contain a box of its group that overlaps it by more than the threshold t.
//
// A group has one chain, until any chain grows long. Then all chains are split by the position of
// their boxes. A box that overlaps the candidate by more than t is at most 1/t times as wide or as
// narrow, and the distance of the left edges is less than 1 - t times the greater width. So a chain
// contains one class of widths (class k: from b^k to b^(k+1), b = 1/t) and one vertical strip of
// left edges, 1 - t times as wide as the greatest width in the class. A candidate is compared with
// three classes and with a few strips in each.
template <typename T>
class KeptBoxes {
 public:
  // Removes all boxes.
  void start(T threshold);

  int64_t size() const { return size_; }

  // Adds `box` unless a kept box of its group overlaps it by more than the threshold. The threshold
  // has the precision of the overlaps: an IoU of 3 / 10 does not exceed 0.3.
  bool add(const Box<T>& box, int64_t group);

 private:
  struct Chain {
    int64_t group, width_class, strip;
    int32_t head, blocks;  // head is -1 if the slot is free
  };
  static constexpr Chain kFree{0, 0, 0, -1, 0};

  int64_t class_of(const Box<T>& box) const;
  double strip_width(int64_t width_class) const;
  // Returns the slot of a chain, or the free slot for it.
  Chain& find(int64_t group, int64_t width_class, int64_t strip);
  void find_heads(const Box<T>& box, int64_t group);
  void insert(const Box<T>& box, int64_t group);
  void split();
  void grow();

  T threshold_ = 0;
  bool in_strips_ = false, can_split_ = false;
  double shrink_ = 0, log_base_ = 0;  // t and log b, with a margin for rounding
  int64_t size_ = 0, used_ = 0;
  std::vector<KeptBlock<T>> blocks_;
  std::vector<Chain> chains_;   // a hash table with a power of two slots, `used_` of them taken
  std::vector<int32_t> heads_;  // of the chains to compare the candidate with
};

extern template class KeptBoxes<float>;
extern template class KeptBoxes<double>;

}  // namespace mrcnn
