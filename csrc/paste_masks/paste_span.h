// Tables of the taps of one box in the image, on the host, for all outputs.
#pragma once

#include <vector>

#include "paste_masks/paste_arguments.h"
#include "paste_masks/paste_masks.h"

namespace mrcnn {

// The pixels of one image axis that read the mask, and their taps: entry i is for pixel begin + i.
struct PasteSpan {
  int64_t begin = 0, end = 0;
  std::vector<int32_t> knots;
  std::vector<float> fractions;

  int64_t size() const { return end - begin; }

  void build(const PasteAxis& axis, int64_t pixels) {
    begin = first_pixel(axis, -1.0f, pixels);
    end = first_pixel(axis, float(axis.cells), pixels);
    knots.resize(size());
    fractions.resize(size());
    for (int64_t i = 0; i < size(); ++i) {
      const PasteTap tap = paste_tap(axis.coordinate(begin + i));
      knots[i] = tap.knot, fractions[i] = tap.fraction;
    }
  }
};

struct Paste {
  PasteSpan rows, columns;

  // Returns false if no pixel reads the mask.
  bool build(const float* box_data, int64_t cells, int64_t height, int64_t width) {
    const Box<float> box = load_box(box_data);
    if (!can_paste(box)) return false;
    rows.build({box.y1, box.y2 - box.y1, cells}, height);
    columns.build({box.x1, box.x2 - box.x1, cells}, width);
    return rows.size() > 0 && columns.size() > 0;
  }
};

}  // namespace mrcnn
