// Weights of mask cells in the bins of a target, along one axis, shared by all devices. RLE masks
// are averaged over bins as in RoIAlign with adaptive sampling.
#pragma once

#include "roi_align/roi_align.h"

namespace mrcnn {

// The samples of one bin along an axis of a mask.
struct BinSamples {
  double origin, spacing, per_spacing;  // start of the bin, in cells; sample spacing; its inverse
  double share;                         // weight of one sample
  int64_t samples, first, last;  // number; those from `first` to before `last` are on the map
  int64_t begin, end;            // cells that may have weight

  HOST_DEVICE double position(int64_t sample) const { return origin + (sample + 0.5) * spacing; }

  // Counts the samples before a position. Samples are in ascending order; NaN is before nothing.
  HOST_DEVICE int64_t count_before(double limit) const {
    const double guess = (limit - origin) * per_spacing;
    int64_t count = guess > 0 ? (guess < samples ? int64_t(guess) : samples) : 0;
    while (count > 0 && !(position(count - 1) < limit)) --count;
    while (count < samples && position(count) < limit) ++count;
    return count;
  }

  // The weight of the cells before `cell`. A sample between the centres of cells `cell` - 1 and
  // `cell` counts by its distance from the latter; all samples before that count fully.
  HOST_DEVICE double weight_before(int64_t cell) const {
    if (cell <= begin) return 0;
    if (cell >= end) return double(last - first) * share;
    int64_t sample = count_before(double(cell - 1));
    if (sample < first) sample = first;
    double weight = double(sample - first);
    for (; sample < last; ++sample) {
      const double distance = double(cell) - position(sample);
      if (!(distance > 0)) break;
      weight += distance;
    }
    return weight * share;
  }

  // The weight of the cells from `from` to before `to`.
  HOST_DEVICE double weight(int64_t from, int64_t to) const {
    return weight_before(to) - weight_before(from);
  }
};

// Returns bin `bin` of `bins` between two positions on an axis of `cells` cells, at least one.
HOST_DEVICE BinSamples bin_samples(double low, double high, int64_t bins, int64_t bin,
                                   int64_t cells) {
  const RoiAxis<double> axis = roi_axis(low, high, 1.0, bins, int64_t(0), true);
  const double samples = double(axis.samples);
  BinSamples result = {axis.start + bin * axis.bin_size,
                       axis.bin_size / samples,
                       samples / axis.bin_size,
                       1 / samples,
                       axis.samples,
                       0,
                       0,
                       0,
                       0};
  // As in `linear_tap`, samples more than one cell outside of the mask count as 0; others read the
  // nearest cells.
  const int64_t first = result.count_before(-1);
  int64_t last = result.count_before(double(cells));
  while (last < axis.samples && result.position(last) <= cells) ++last;
  if (first >= last) return result;
  const double low_sample = result.position(first), high_sample = result.position(last - 1);
  const int64_t low_cell = low_sample > 0 ? int64_t(low_sample) : 0;
  const int64_t high_cell = high_sample > 0 ? int64_t(high_sample) : 0;
  result.first = first, result.last = last;
  result.begin = low_cell < cells ? low_cell : cells - 1;
  result.end = high_cell + 2 < cells ? high_cell + 2 : cells;
  return result;
}

}  // namespace mrcnn
