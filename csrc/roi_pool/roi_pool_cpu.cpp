// RoIPool on the host: the largest value of each bin, and the gradient to the cell of that value.
#include <algorithm>
#include <limits>
#include <tuple>

#include "common/channels_last.h"
#include "common/rois.h"
#include "common/tensor.h"
#include "roi_pool/roi_pool.h"

namespace mrcnn {
namespace {

struct CellRange {
  int64_t begin, end;
};

}  // namespace
}  // namespace mrcnn

#define LOOPS "roi_pool/roi_pool_loops.h"
#include "common/each_isa.h"

namespace mrcnn {

std::tuple<Tensor, Tensor> roi_pool_cpu(Tensor features, Tensor boxes, Tensor image_index,
                                        double scale, int64_t bins_h, int64_t bins_w,
                                        bool with_argmax) {
  check_roi_pool(features, boxes, image_index, bins_h, bins_w);
  const ScalarType dtype = features.scalar_type();
  const int64_t images = features.size(0), channels = features.size(1);
  const int64_t height = features.size(2), width = features.size(3), rois = boxes.size(0);
  STD_TORCH_CHECK(height == 0 || width <= INT32_MAX / height,
                  "roi_pool: the map must have less than 2^31 cells, got ", height, " x ", width);
  features = channels_last_cpu(features);
  boxes = boxes_for(boxes, dtype);
  image_index = torch::stable::contiguous(image_index);
  const int64_t* image_of = image_index.const_data_ptr<int64_t>();
  check_image_index("roi_pool", image_of, rois, images);

  const std::vector<int64_t> sizes{rois, channels, bins_h, bins_w};
  Tensor out = new_tensor(boxes, sizes, dtype, MemoryFormat::ChannelsLast);
  Tensor argmax = with_argmax
                      ? new_tensor(boxes, sizes, ScalarType::Int, MemoryFormat::ChannelsLast)
                      : new_tensor(boxes, {0}, ScalarType::Int);
  dispatch_floating(dtype, "roi_pool", [&](auto zero) {
    using T = decltype(zero);
    using A = typename Accumulate<T>::type;
    const T* maps = features.const_data_ptr<T>();
    const A* box_data = boxes.const_data_ptr<A>();
    T* out_data = out.mutable_data_ptr<T>();
    int32_t* argmax_data = with_argmax ? argmax.mutable_data_ptr<int32_t>() : nullptr;
    torch::stable::parallel_for(0, rois, 8, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) {
        const Box<A> box = load_box(box_data + k * 4);
        const bool pools = image_of[k] >= 0 && finite(box);
        const auto rows = pool_axis(box.y1, box.y2, A(scale), bins_h);
        const auto columns = pool_axis(box.x1, box.x2, A(scale), bins_w);
        const T* map = maps + std::max<int64_t>(image_of[k], 0) * height * width * channels;
        for (int64_t by = 0; by < bins_h; ++by)
          for (int64_t bx = 0; bx < bins_w; ++bx) {
            const int64_t bin = ((k * bins_h + by) * bins_w + bx) * channels;
            const CellRange y{rows.begin(by, height), rows.end(by, height)};
            const CellRange x{columns.begin(bx, width), columns.end(bx, width)};
            if (pools && y.begin < y.end && x.begin < x.end) {
              BY_ISA(max_pool_bin(map, width, channels, y, x, A(0), out_data + bin,
                                  argmax_data ? argmax_data + bin : nullptr));
            } else {
              std::fill_n(out_data + bin, channels, T(0));
              if (argmax_data) std::fill_n(argmax_data + bin, channels, -1);
            }
          }
      }
    });
  });
  return {out, argmax};
}

Tensor roi_pool_backward_cpu(Tensor grad, Tensor argmax, Tensor image_index, int64_t images,
                             int64_t height, int64_t width) {
  check_roi_pool_gradient(grad, argmax, image_index);
  const ScalarType dtype = grad.scalar_type();
  const int64_t rois = grad.size(0), channels = grad.size(1);
  const int64_t bins = grad.size(2) * grad.size(3);
  grad = channels_last_cpu(grad);
  argmax = channels_last_cpu(argmax);
  image_index = torch::stable::contiguous(image_index);
  const int64_t* image_of = image_index.const_data_ptr<int64_t>();
  const int32_t* argmax_data = argmax.const_data_ptr<int32_t>();
  check_image_index("roi_pool", image_of, rois, images);

  Tensor sum = new_tensor(grad, {images, channels, height, width}, sum_type(dtype),
                          MemoryFormat::ChannelsLast);
  torch::stable::zero_(sum);
  dispatch_floating(dtype, "roi_pool_backward", [&](auto zero) {
    using T = decltype(zero);
    using A = typename Accumulate<T>::type;
    const T* grad_data = grad.const_data_ptr<T>();
    A* maps = sum.mutable_data_ptr<A>();
    // Each thread has a slice of the channels and takes all RoIs in order. So no two threads write
    // to the same value, and sums have the same order for any number of threads.
    constexpr int64_t kSlice = 64;
    const int64_t slices = (channels + kSlice - 1) / kSlice;
    torch::stable::parallel_for(0, slices, 1, [&](int64_t begin, int64_t end) {
      const int64_t first = begin * kSlice, last = std::min(end * kSlice, channels);
      for (int64_t k = 0; k < rois; ++k) {
        if (image_of[k] < 0) continue;
        A* map = maps + image_of[k] * height * width * channels;
        for (int64_t i = k * bins * channels; i < (k + 1) * bins * channels; i += channels)
          for (int64_t c = first; c < last; ++c)
            if (argmax_data[i + c] >= 0 && argmax_data[i + c] < height * width)
              map[argmax_data[i + c] * channels + c] += A(grad_data[i + c]);
      }
    });
  });
  return torch::stable::to(sum, dtype);
}

STABLE_TORCH_LIBRARY_IMPL(mrcnn, CPU, m) {
  m.impl("roi_pool", BOX(roi_pool_cpu));
  m.impl("roi_pool_backward", BOX(roi_pool_backward_cpu));
}

}  // namespace mrcnn
