// Loop of NMS: one candidate against blocks of kept boxes. Included by common/each_isa.h.

// Returns whether a kept box in the chains that start at `heads` overlaps `box` by more than
// `threshold`.
template <typename T>
bool overlaps_any(const KeptBlock<T>* blocks, const int32_t* heads, int64_t chains,
                  const Box<T>& box, T threshold) {
  using V = Vec<T>;
  const V zero{}, box_area = area(box) - zero;
  const V x1 = box.x1 - zero, y1 = box.y1 - zero, x2 = box.x2 - zero, y2 = box.y2 - zero;
  // The first comparison, with a slightly lower threshold, needs no division and rejects nearly all
  // boxes, rounding included; the division decides.
  const V enough = threshold - std::abs(threshold) * T(1e-5) - zero;
  for (int64_t chain = 0; chain < chains; ++chain)
    for (int32_t b = heads[chain]; b >= 0; b = blocks[b].next) {
      const KeptBlock<T>& kept = blocks[b];
      for (int64_t i = 0; i < kBlockBoxes; i += kLanes<T>) {
        const V width = smaller(load(kept.x2 + i), x2) - larger(load(kept.x1 + i), x1);
        const V height = smaller(load(kept.y2 + i), y2) - larger(load(kept.y1 + i), y1);
        const V overlap = larger(width, zero) * larger(height, zero);
        const V total = load(kept.area + i) + box_area - overlap;
        if (any(overlap >= enough * total) && any(overlap / total > threshold - zero)) return true;
      }
    }
  return false;
}
