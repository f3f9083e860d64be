// Candidates in order: best score first, ties to the lower index.
#pragma once

#include <algorithm>
#include <array>
#include <cfloat>
#include <cstdint>
#include <cstring>
#include <functional>
#include <utility>
#include <vector>

#include "common/device.h"

namespace mrcnn {

// Larger words for larger scores: floats compare like their bits once negative ones are flipped.
HOST_DEVICE uint32_t ordered_bits(float score) {
  score += 0.0f;  // -0 ranks with 0
  uint32_t bits;
  memcpy(&bits, &score, 4);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// One word orders candidates by falling score, then by rising index: larger keys come first.
HOST_DEVICE uint64_t rank_key(float score, uint32_t index) {
  return uint64_t(ordered_bits(score)) << 32 | (0xFFFFFFFFu - index);
}

HOST_DEVICE uint32_t key_index(uint64_t key) { return 0xFFFFFFFFu - uint32_t(key); }

// Padding (-inf) and NaN never compete.
HOST_DEVICE bool competes(float score) { return score >= -FLT_MAX; }

// Puts keys that stand in the order of their indices into falling order.
inline void sort_keys(std::vector<uint64_t>& keys, std::vector<uint64_t>& scratch) {
  constexpr size_t kFew = 2048;  // faster by comparisons
  if (keys.size() < kFew) return std::sort(keys.begin(), keys.end(), std::greater<>());
  // By the 11 lowest bits of the score first. Each pass keeps the order of equal digits, and with
  // it the order of the indices.
  constexpr int kBits = 11, kDigits = 1 << kBits;
  scratch.resize(keys.size());
  for (int shift = 32; shift < 64; shift += kBits) {
    std::array<uint32_t, kDigits> place{};
    const auto digit = [&](uint64_t key) { return ~(key >> shift) & (kDigits - 1); };
    for (const uint64_t key : keys) ++place[digit(key)];
    uint32_t sum = 0;
    for (uint32_t& p : place) sum += std::exchange(p, sum);
    for (const uint64_t key : keys) scratch[place[digit(key)]++] = key;
    keys.swap(scratch);
  }
}

// The keys of the k best of `count` scores, in falling order.
inline void select_best(const float* scores, int64_t count, int64_t k, std::vector<uint64_t>& keys,
                        std::vector<uint64_t>& scratch) {
  keys.clear();
  if (k <= 0) return;
  // The score that the k-th best reaches, to 11 bits, from a count of how many have which.
  constexpr int kBits = 11, kShift = 32 - kBits;
  std::array<uint32_t, 1 << kBits> have{};
  for (int64_t i = 0; i < count; ++i)
    if (competes(scores[i])) ++have[ordered_bits(scores[i]) >> kShift];
  int64_t least = (1 << kBits) - 1, better = have[least];
  while (least > 0 && better < k) better += have[--least];
  for (int64_t i = 0; i < count; ++i)
    if (competes(scores[i]) && ordered_bits(scores[i]) >> kShift >= uint32_t(least))
      keys.push_back(rank_key(scores[i], uint32_t(i)));
  if (k < int64_t(keys.size())) {
    std::nth_element(keys.begin(), keys.begin() + k, keys.end(), std::greater<>());
    keys.resize(k);
    std::sort(keys.begin(), keys.end(), std::greater<>());
  } else {
    sort_keys(keys, scratch);
  }
}

}  // namespace mrcnn
