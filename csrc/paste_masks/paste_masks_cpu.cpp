// Pastes masks into the image as pixels, with a byte or a bit per pixel.
#include <algorithm>
#include <cstring>

#include "paste_masks/paste_span.h"

#define LOOPS "paste_masks/paste_masks_loops.h"
#include "common/each_isa.h"

namespace mrcnn {
namespace {

// The rows of one mask, interpolated at columns of the image. Rows of the image are between them.
// Holds the scratch of one thread.
class StretchedRows {
 public:
  // Interpolates at all columns of the image that read the mask.
  void stretch(const float* mask, int64_t cells, const PasteSpan& columns) {
    build(mask, cells, columns.knots.data(), columns.fractions.data(), columns.size());
  }

  // Interpolates at the columns of `bytes` bytes, starting at `first_byte`, up to a multiple of 64.
  // The columns of a byte are in reverse order, so that its highest bit is its leftmost pixel.
  void stretch_bytes(const float* mask, int64_t cells, const PasteSpan& columns, int64_t first_byte,
                     int64_t bytes) {
    const int64_t count = (bytes + 7) / 8 * 64;
    knots_.assign(count, int32_t(cells) + 1);  // where all values are zeros
    fractions_.assign(count, 0.0f);
    for (int64_t i = 0; i < columns.size(); ++i) {
      const int64_t at = (columns.begin + i - 8 * first_byte) ^ 7;
      knots_[at] = columns.knots[i], fractions_[at] = columns.fractions[i];
    }
    build(mask, cells, knots_.data(), fractions_.data(), count);
  }

  // Returns the row at knot `knot` of the y axis.
  const float* row(int64_t knot) const { return rows_.data() + knot * count_; }

 private:
  void build(const float* mask, int64_t cells, const int32_t* knots, const float* fractions,
             int64_t count) {
    count_ = count;
    rows_.assign((cells + 2) * count, 0.0f);
    padded_.assign(cells + 3, 0.0f);  // knot k is cell k - 1
    for (int64_t y = 0; y < cells; ++y) {
      std::copy_n(mask + y * cells, cells, padded_.data() + 1);
      BY_ISA(stretch_row(padded_.data(), knots, fractions, count, &rows_[(y + 1) * count]));
    }
  }

  int64_t count_ = 0;
  std::vector<float> rows_, padded_, fractions_;
  std::vector<int32_t> knots_;
};

// Clears each image and calls write(paste, rows, mask, image) for each mask that a pixel reads.
template <typename T, typename Write>
void paste_all(const Tensor& masks, const Tensor& boxes, int64_t height, int64_t width, Tensor& out,
               Write&& write) {
  const int64_t count = masks.size(0), cells = masks.size(1), image_size = out.stride(0);
  const float* mask_data = masks.const_data_ptr<float>();
  const float* box_data = boxes.const_data_ptr<float>();
  T* out_data = out.mutable_data_ptr<T>();
  constexpr int64_t kBytesPerThread = 1 << 17;
  const int64_t grain = kBytesPerThread / std::max<int64_t>(image_size, 1) + 1;
  torch::stable::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) {
    Paste paste;
    StretchedRows rows;
    for (int64_t d = begin; d < end; ++d) {
      T* image = out_data + d * image_size;
      std::memset(image, 0, image_size);
      if (paste.build(box_data + d * 4, cells, height, width))
        write(paste, rows, mask_data + d * cells * cells, image);
    }
  });
}

}  // namespace

Tensor paste_masks_cpu(Tensor masks, Tensor boxes, int64_t height, int64_t width,
                       double threshold) {
  prepare_paste(masks, boxes, height, width);
  const int64_t cells = masks.size(1);
  Tensor out = new_tensor(masks, {masks.size(0), height, width}, ScalarType::Bool);
  paste_all<bool>(
      masks, boxes, height, width, out,
      [&](const Paste& paste, StretchedRows& rows, const float* mask, bool* image) {
        rows.stretch(mask, cells, paste.columns);
        for (int64_t i = 0; i < paste.rows.size(); ++i) {
          const int64_t knot = paste.rows.knots[i];
          BY_ISA(threshold_row(rows.row(knot), rows.row(knot + 1), paste.rows.fractions[i],
                               float(threshold), paste.columns.size(),
                               image + (paste.rows.begin + i) * width + paste.columns.begin));
        }
      });
  return out;
}

Tensor paste_masks_packed_cpu(Tensor masks, Tensor boxes, int64_t height, int64_t width,
                              double threshold) {
  prepare_paste(masks, boxes, height, width);
  const int64_t cells = masks.size(1), row_bytes = (width + 7) / 8;
  Tensor out = new_tensor(masks, {masks.size(0), height, row_bytes}, ScalarType::Byte);
  paste_all<uint8_t>(
      masks, boxes, height, width, out,
      [&](const Paste& paste, StretchedRows& rows, const float* mask, uint8_t* image) {
        const int64_t first = paste.columns.begin / 8, last = (paste.columns.end + 7) / 8;
        rows.stretch_bytes(mask, cells, paste.columns, first, last - first);
        for (int64_t i = 0; i < paste.rows.size(); ++i) {
          const int64_t knot = paste.rows.knots[i];
          BY_ISA(pack_row(rows.row(knot), rows.row(knot + 1), paste.rows.fractions[i],
                          float(threshold), last - first,
                          image + (paste.rows.begin + i) * row_bytes + first));
        }
      });
  return out;
}

STABLE_TORCH_LIBRARY_IMPL(mrcnn, CPU, m) {
  m.impl("paste_masks", BOX(paste_masks_cpu));
  m.impl("paste_masks_packed", BOX(paste_masks_packed_cpu));
}

}  // namespace mrcnn
