// COCO RLE: runs of a mask down the columns, background first, and their text form.
//
// The text form stores run i as the difference to run i - 2 (from the fourth run on), in groups of
// 5 bits, lowest first, one character '0' + group each. Bit 5 means that more groups follow; bit 4
// of the last group is the sign.
#pragma once

#include <bit>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace mrcnn {

constexpr int kMaxGroups = 7;  // 35 bits hold every difference of two int32

// Writes the groups of one value, 1 to kMaxGroups of the 8 bytes at `out`, without a branch, which
// would be mispredicted. Returns their number.
inline int write_groups(int64_t value, char* out) {
  const uint64_t magnitude = static_cast<uint64_t>(value < 0 ? ~value : value);
  const int bits = 65 - std::countl_zero(magnitude);  // with the sign
  const int groups = (bits + 4) / 5;
  uint64_t text = ((uint64_t{1} << 8 * (groups - 1)) - 1) & 0x2020202020202020;  // more follow
  for (int group = 0; group < kMaxGroups; ++group)
    text |= static_cast<uint64_t>(value >> 5 * group & 0x1f) << 8 * group;
  text += 0x3030303030303030;
  for (int i = 0; i < 8; ++i) out[i] = static_cast<char>(text >> 8 * i);
  return groups;
}

// Counts must lie in [0, 2^31).
template <typename T>
std::string rle_to_string(const T* counts, int64_t n) {
  std::string text(kMaxGroups * n + 1, '\0');
  int64_t size = 0;
  for (int64_t i = 0; i < n; ++i)
    size += write_groups(int64_t{counts[i]} - (i > 2 ? counts[i - 2] : 0), &text[size]);
  text.resize(size);
  return text;
}

// Checks that runs fill their mask. `sum` cannot overflow, because the loop stops early.
inline void check_counts(const int64_t* counts, int64_t n, int64_t height, int64_t width) {
  int64_t sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (counts[i] < 0)
      throw std::invalid_argument("run " + std::to_string(i) + " must not be negative, got " +
                                  std::to_string(counts[i]));
    if (counts[i] > height * width - sum)
      throw std::invalid_argument(
          "runs must sum to height * width = " + std::to_string(height * width) +
          ", got more by run " + std::to_string(i) + " of " + std::to_string(n));
    sum += counts[i];
  }
  if (sum != height * width)
    throw std::invalid_argument("runs must sum to height * width = " +
                                std::to_string(height * width) + ", got " + std::to_string(sum));
}

inline std::vector<int64_t> rle_from_string(std::string_view text, int64_t height, int64_t width) {
  std::vector<int64_t> counts;
  counts.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    int64_t value = 0;
    int groups = 0;
    bool more = true;
    while (more) {
      if (at == text.size()) throw std::invalid_argument("text ends in the middle of a run");
      const int group = static_cast<unsigned char>(text[at]) - '0';
      if (group < 0 || group > 0x3f)
        throw std::invalid_argument("character " + std::to_string(at) +
                                    " must be one of '0' to 'o', got code " +
                                    std::to_string(static_cast<unsigned char>(text[at])));
      if (groups == kMaxGroups)
        throw std::invalid_argument("run " + std::to_string(counts.size()) + " is too large");
      value |= static_cast<int64_t>(group & 0x1f) << (5 * groups++);
      more = group & 0x20;
      if (!more && (group & 0x10)) value |= -(int64_t{1} << (5 * groups));
      ++at;
    }
    if (counts.size() > 2) value += counts[counts.size() - 2];
    if (value < 0 || value > height * width)
      throw std::invalid_argument("run " + std::to_string(counts.size()) +
                                  " must lie in [0, height * width], got " + std::to_string(value));
    counts.push_back(value);
  }
  check_counts(counts.data(), static_cast<int64_t>(counts.size()), height, width);
  return counts;
}

}  // namespace mrcnn
