// Order of candidates: best score first, ties to the lower index.
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

// Maps larger scores to larger words: floats compare like their bits if negative ones are flipped.
HOST_DEVICE uint32_t ordered_bits(float score) {
  score += 0.0f;  // -0 ranks with 0
  uint32_t bits;
  memcpy(&bits, &score, 4);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// Returns whether `a` is a better score than `b`; NaN is the best, as in `torch.sort`.
template <typename T>
HOST_DEVICE bool better(T a, T b) {
  return a > b || (a != a && b == b);
}

// Combines score and index in one word: larger keys rank first, by score and then by lower index.
HOST_DEVICE uint64_t rank_key(float score, uint32_t index) {
  return uint64_t(ordered_bits(score)) << 32 | (0xFFFFFFFFu - index);
}

HOST_DEVICE uint32_t key_index(uint64_t key) { return 0xFFFFFFFFu - uint32_t(key); }

// Padding (-inf) and NaN never compete.
HOST_DEVICE bool competes(float score) { return score >= -FLT_MAX; }

// Sorts keys in descending order. They must be given in the order of their indices.
inline void sort_keys(std::vector<uint64_t>& keys, std::vector<uint64_t>& scratch) {
  constexpr size_t kFew = 2048;  // up to here, sorting by comparison is faster
  if (keys.size() < kFew) return std::sort(keys.begin(), keys.end(), std::greater<>());
  // Radix sort, starting with the 11 lowest bits of the score. Each pass keeps the order of equal
  // digits, and so the order of the indices.
  constexpr int kBits = 11, kDigits = 1 << kBits;
  scratch.resize(keys.size());
  for (int shift = 32; shift < 64; shift += kBits) {
    std::array<uint32_t, kDigits> position{};
    const auto digit = [&](uint64_t key) { return ~(key >> shift) & (kDigits - 1); };
    for (const uint64_t key : keys) ++position[digit(key)];
    uint32_t sum = 0;
    for (uint32_t& p : position) sum += std::exchange(p, sum);
    for (const uint64_t key : keys) scratch[position[digit(key)]++] = key;
    keys.swap(scratch);
  }
}

// Selects the keys of the k best of `count` scores, in descending order.
inline void select_best(const float* scores, int64_t count, int64_t k, std::vector<uint64_t>& keys,
                        std::vector<uint64_t>& scratch) {
  keys.clear();
  if (k <= 0) return;
  // A histogram of the highest 11 bits gives a lower limit of the k-th best score.
  constexpr int kBits = 11, kShift = 32 - kBits;
  std::array<uint32_t, 1 << kBits> histogram{};
  for (int64_t i = 0; i < count; ++i)
    if (competes(scores[i])) ++histogram[ordered_bits(scores[i]) >> kShift];
  int64_t least = (1 << kBits) - 1, better = histogram[least];
  while (least > 0 && better < k) better += histogram[--least];
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
