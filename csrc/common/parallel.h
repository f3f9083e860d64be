// Parallel loops over pieces that take different times.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace mrcnn {

// Calls work(begin, end) for pieces of [0, count); a thread that has finished takes the next piece.
template <typename Work>
void parallel_pieces(int64_t count, int64_t piece, const Work& work) {
  std::atomic<int64_t> next{0};
  const int64_t workers =
      std::min<int64_t>(torch::stable::get_num_threads(), (count + piece - 1) / piece);
  torch::stable::parallel_for(0, workers, 1, [&](int64_t, int64_t) {
    for (int64_t begin; (begin = next.fetch_add(piece, std::memory_order_relaxed)) < count;)
      work(begin, std::min(begin + piece, count));
  });
}

}  // namespace mrcnn
