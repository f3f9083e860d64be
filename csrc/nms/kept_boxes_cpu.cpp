// The set of kept boxes of greedy NMS on the host; nms.h explains its chains and strips.
#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <utility>

#include "nms/nms.h"

#define LOOPS "nms/nms_loops.h"
#include "common/each_isa.h"

namespace mrcnn {
namespace {

constexpr int32_t kLongChain = 64;  // blocks; for longer chains, strips are faster
constexpr int64_t kTiny = std::numeric_limits<int64_t>::min();
constexpr double kLimit = 1e15;  // limit of strip indices, far beyond any image

int64_t to_strip(double position) {
  return int64_t(std::floor(std::clamp(position, -kLimit, kLimit)));
}

}  // namespace

template <typename T>
void KeptBoxes<T>::start(T threshold) {
  threshold_ = threshold;
  in_strips_ = false;
  // Double coordinates could exceed the range of strips; low thresholds give strips wider than
  // objects.
  can_split_ = std::is_same_v<T, float> && threshold >= T(0.1);
  shrink_ = std::min(double(threshold), 1.0) * (1 - 1e-5);
  log_base_ = -std::log(shrink_);
  size_ = used_ = 0;
  blocks_.clear();
  chains_.assign(64, kFree);
}

template <typename T>
int64_t KeptBoxes<T>::class_of(const Box<T>& box) const {
  return int64_t(std::floor(std::log(double(box.x2 - box.x1)) / log_base_));
}

template <typename T>
double KeptBoxes<T>::strip_width(int64_t width_class) const {
  return (1 - shrink_) * std::exp(log_base_ * double(width_class + 1));
}

template <typename T>
typename KeptBoxes<T>::Chain& KeptBoxes<T>::find(int64_t group, int64_t width_class,
                                                 int64_t strip) {
  uint64_t hash = uint64_t(group) * 0x9E3779B97F4A7C15u;
  hash = (hash ^ uint64_t(width_class)) * 0xBF58476D1CE4E5B9u;
  hash = (hash ^ uint64_t(strip)) * 0x94D049BB133111EBu;
  const uint64_t mask = chains_.size() - 1;
  for (uint64_t slot = hash >> 40 & mask;; slot = (slot + 1) & mask) {
    Chain& chain = chains_[slot];
    if (chain.head < 0 ||
        (chain.group == group && chain.width_class == width_class && chain.strip == strip))
      return chain;
  }
}

template <typename T>
void KeptBoxes<T>::find_heads(const Box<T>& box, int64_t group) {
  heads_.clear();
  const auto add_head = [&](int64_t width_class, int64_t strip) {
    const int32_t head = find(group, width_class, strip).head;
    if (head >= 0) heads_.push_back(head);
  };
  if (!in_strips_) return add_head(0, 0);
  add_head(kTiny, 0);
  const double width = box.x2 - box.x1, left = box.x1;
  const int64_t own = class_of(box);
  for (const int64_t width_class : {own, own - 1, own + 1}) {
    const double strip = strip_width(width_class);
    const double reach = std::max((1 - shrink_) * width, strip);
    const int64_t last = to_strip((left + reach) / strip);
    for (int64_t s = to_strip((left - reach) / strip); s <= last; ++s) add_head(width_class, s);
  }
}

template <typename T>
void KeptBoxes<T>::insert(const Box<T>& box, int64_t group) {
  int64_t width_class = 0, strip = 0;
  if (in_strips_ && area(box) < std::numeric_limits<T>::min()) {
    width_class = kTiny;  // rounding of a denormal area can hide any ratio of widths
  } else if (in_strips_) {
    width_class = class_of(box);
    strip = to_strip(double(box.x1) / strip_width(width_class));
  }
  Chain* chain = &find(group, width_class, strip);
  if (chain->head < 0) {
    if (4 * ++used_ > 3 * int64_t(chains_.size())) {
      grow();
      chain = &find(group, width_class, strip);
    }
    *chain = {group, width_class, strip, -1, 0};
  }
  if (chain->head < 0 || blocks_[chain->head].size == kBlockBoxes) {
    blocks_.emplace_back();
    blocks_.back().size = 0;
    blocks_.back().next = chain->head;
    // The IoU with an unused slot is NaN, which exceeds no threshold.
    std::fill_n(blocks_.back().area, kBlockBoxes, std::numeric_limits<T>::quiet_NaN());
    chain->head = int32_t(blocks_.size()) - 1;
    ++chain->blocks;
  }
  KeptBlock<T>& block = blocks_[chain->head];
  const int32_t i = block.size++;
  block.x1[i] = box.x1, block.y1[i] = box.y1, block.x2[i] = box.x2, block.y2[i] = box.y2;
  block.area[i] = area(box);
  if (can_split_ && !in_strips_ && chain->blocks > kLongChain) split();
}

template <typename T>
void KeptBoxes<T>::split() {
  in_strips_ = true;
  used_ = 0;
  const std::vector<KeptBlock<T>> blocks = std::exchange(blocks_, {});
  std::vector<Chain> chains(chains_.size(), kFree);
  chains.swap(chains_);
  for (const Chain& chain : chains)
    for (int32_t b = chain.head; b >= 0; b = blocks[b].next)
      for (int32_t i = 0; i < blocks[b].size; ++i)
        insert({blocks[b].x1[i], blocks[b].y1[i], blocks[b].x2[i], blocks[b].y2[i]}, chain.group);
}

template <typename T>
void KeptBoxes<T>::grow() {
  std::vector<Chain> old(4 * chains_.size(), kFree);
  old.swap(chains_);
  for (const Chain& chain : old)
    if (chain.head >= 0) find(chain.group, chain.width_class, chain.strip) = chain;
}

template <typename T>
bool KeptBoxes<T>::add(const Box<T>& box, int64_t group) {
  const T box_area = area(box);
  // A box without area or of infinite area has an IoU of 0 or NaN with every other.
  const bool competes = !(threshold_ >= 0) || (box_area > 0 && box_area - box_area == 0);
  if (competes) {
    find_heads(box, group);
    if (BY_ISA(
            overlaps_any(blocks_.data(), heads_.data(), int64_t(heads_.size()), box, threshold_)))
      return false;
    insert(box, group);
  }
  ++size_;
  return true;
}

template class KeptBoxes<float>;
template class KeptBoxes<double>;

}  // namespace mrcnn
