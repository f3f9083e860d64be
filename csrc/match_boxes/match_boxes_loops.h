// Loops of matching: a block of boxes against one target. Included by common/each_isa.h.

// Loads boxes (count, 4) as columns, followed by empty boxes, and computes their hull, ignoring
// NaN.
inline void load_block(const float* boxes, int64_t count, BoxBlock& block) {
  block.count = count;
  for (int64_t i = 0; i < count; ++i) {
    const float x1 = boxes[4 * i], y1 = boxes[4 * i + 1];
    const float x2 = boxes[4 * i + 2], y2 = boxes[4 * i + 3];
    block.x1[i] = x1, block.y1[i] = y1, block.x2[i] = x2, block.y2[i] = y2;
    block.area[i] = area(Box<float>{x1, y1, x2, y2});
  }
  const int64_t end = (count + kLanes<float> - 1) / kLanes<float> * kLanes<float>;
  for (float* column : {block.x1, block.y1, block.x2, block.y2, block.area})
    std::fill(column + count, column + end, 0.0f);
  const FloatVec infinity = std::numeric_limits<float>::infinity() - FloatVec{};
  FloatVec x1 = infinity, y1 = infinity, x2 = -infinity, y2 = -infinity;
  for (int64_t i = 0; i < end; i += kLanes<float>) {
    x1 = smaller(load(block.x1 + i), x1), y1 = smaller(load(block.y1 + i), y1);
    x2 = larger(load(block.x2 + i), x2), y2 = larger(load(block.y2 + i), y2);
  }
  block.hull = {x1[0], y1[0], x2[0], y2[0]};
  for (int64_t lane = 1; lane < kLanes<float>; ++lane)
    block.hull = {std::min(block.hull.x1, x1[lane]), std::min(block.hull.y1, y1[lane]),
                  std::max(block.hull.x2, x2[lane]), std::max(block.hull.y2, y2[lane])};
}

// Computes the IoU of boxes i to i + kLanes with the target, by the same operations as `iou` in
// common/box.h. Returns false if none overlaps: then all IoUs are 0 or NaN, which match nothing.
inline bool overlap_some(const BoxBlock& block, int64_t i, const Box<float>& target,
                         float target_area, FloatVec& iou) {
  const FloatVec zero{};
  const FloatVec width =
      smaller(load(block.x2 + i), target.x2 - zero) - larger(load(block.x1 + i), target.x1 - zero);
  const FloatVec height =
      smaller(load(block.y2 + i), target.y2 - zero) - larger(load(block.y1 + i), target.y1 - zero);
  const FloatVec overlap = larger(zero, width) * larger(zero, height);  // NaN stays NaN
  if (!any(overlap > zero)) return false;
  iou = overlap / (load(block.area + i) + target_area - overlap);
  return true;
}

// Assigns target `slot` to the boxes that overlap it more than their best target so far. Returns
// the largest overlap of any box.
inline float raise_best(const BoxBlock& block, const Box<float>& target, int32_t slot,
                        BestTargets& best) {
  FloatVec most{}, iou;
  for (int64_t i = 0; i < block.count; i += kLanes<float>) {
    if (!overlap_some(block, i, target, area(target), iou)) continue;
    most = larger(iou, most);  // ignores NaN
    const FloatVec before = load(best.overlap + i);
    const FloatIndexVec better = iou > before;
    FloatIndexVec slots;
    std::memcpy(&slots, best.slot + i, VEC_BYTES);
    slots = better ? slot - FloatIndexVec{} : slots;
    std::memcpy(best.slot + i, &slots, VEC_BYTES);
    store(best.overlap + i, better ? iou : before);
  }
  float largest = 0;
  for (int64_t lane = 0; lane < kLanes<float>; ++lane) largest = std::max(largest, most[lane]);
  return largest;
}

// Makes the boxes positive whose overlap with the target is exactly `most`, which is above 0.
inline void mark_equal(const BoxBlock& block, const Box<float>& target, float most, int8_t* role) {
  FloatVec iou;
  for (int64_t i = 0; i < block.count; i += kLanes<float>) {
    if (!overlap_some(block, i, target, area(target), iou)) continue;
    for (int64_t lane = 0; lane < kLanes<float>; ++lane)
      if (iou[lane] == most) role[i + lane] = 1;
  }
}

inline void write_matches(const BestTargets& best, int64_t count, float low, float high,
                          int64_t* matched, int8_t* role) {
  for (int64_t i = 0; i < count; ++i) {
    matched[i] = best.slot[i];
    role[i] = role_of(best.overlap[i], low, high);
  }
}
