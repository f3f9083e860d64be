// Host-only functions that Python calls directly: RLE codecs, boxes of annotated masks, and images
// to pixels. mrcnn/rle.py, mrcnn/ops/instance_masks.py and mrcnn/data/images.py call them.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <string>
#include <string_view>

#include "build_info.h"
#include "host/mask_boxes.h"
#include "host/polygon_boxes.h"
#include "host/rle.h"
#include "host/write_pixels.h"

namespace py = pybind11;

namespace {

template <typename T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

void require(bool condition, const char* message) {
  if (!condition) throw py::value_error(message);
}

void check_frame(int64_t height, int64_t width) {
  require(height >= 0 && width >= 0, "rle: height and width must not be negative");
  require(height == 0 || width <= INT32_MAX / height, "rle: a mask must have at most 2^31 pixels");
}

// Offsets must start at 0, never decrease, and end at `total`.
void check_offsets(const Array<int64_t>& offsets, int64_t total, const std::string& name) {
  bool valid = offsets.ndim() == 1 && offsets.size() > 0 && offsets.data()[0] == 0 &&
               offsets.data()[offsets.size() - 1] == total;
  for (py::ssize_t i = 1; valid && i < offsets.size(); ++i)
    valid = offsets.data()[i - 1] <= offsets.data()[i];
  if (!valid) throw py::value_error(name + " must rise from 0 to " + std::to_string(total));
}

Array<int32_t> to_int32(const std::vector<int64_t>& counts) {
  Array<int32_t> out(static_cast<py::ssize_t>(counts.size()));
  std::copy(counts.begin(), counts.end(), out.mutable_data());
  return out;
}

std::string to_string(const Array<int64_t>& counts) {
  require(counts.ndim() == 1, "rle_to_string: counts must have one dimension");
  for (py::ssize_t i = 0; i < counts.size(); ++i)
    require(counts.data()[i] >= 0 && counts.data()[i] <= INT32_MAX,
            "rle_to_string: counts must lie in [0, 2^31)");
  return mrcnn::rle_to_string(counts.data(), counts.size());
}

Array<int32_t> from_string(std::string_view text, int64_t height, int64_t width) {
  check_frame(height, width);
  return to_int32(mrcnn::rle_from_string(text, height, width));
}

Array<int32_t> from_counts(const Array<int64_t>& counts, int64_t height, int64_t width) {
  check_frame(height, width);
  require(counts.ndim() == 1, "rle_from_counts: counts must have one dimension");
  mrcnn::check_counts(counts.data(), counts.size(), height, width);
  return to_int32({counts.data(), counts.data() + counts.size()});
}

py::list to_strings(const Array<int32_t>& counts, const Array<int64_t>& starts) {
  require(counts.ndim() == 1, "rle_to_strings: counts must have one dimension");
  check_offsets(starts, counts.size(), "rle_to_strings: starts");
  require(
      counts.size() == 0 || *std::min_element(counts.data(), counts.data() + counts.size()) >= 0,
      "rle_to_strings: counts must not be negative");
  py::list texts(starts.size() - 1);
  for (py::ssize_t i = 0; i + 1 < starts.size(); ++i) {
    const int64_t begin = starts.data()[i], end = starts.data()[i + 1];
    texts[i] = mrcnn::rle_to_string(counts.data() + begin, end - begin);
  }
  return texts;
}

// A column has at most 5 * height grid rows, and positions down the columns fit int32 counts.
void require_drawable(int64_t height, int64_t width) {
  check_frame(height, width);
  require(height < (1 << 28) && width < (1 << 28), "polygons: an image must have sides below 2^28");
}

Array<int64_t> polygon_edges(const Array<double>& points, const Array<int64_t>& ring_start,
                             int64_t height, int64_t width) {
  require_drawable(height, width);
  require(points.ndim() == 2 && points.shape(1) == 2,
          "polygon_edges: points must have shape (V, 2)");
  check_offsets(ring_start, points.shape(0), "polygon_edges: ring_start");
  const std::vector<int64_t> edges = mrcnn::polygon_edges(
      points.data(), ring_start.data(), ring_start.size() - 1, int32_t(height), int32_t(width));
  return Array<int64_t>(static_cast<py::ssize_t>(edges.size()), edges.data());
}

py::tuple rle_box(const Array<int64_t>& counts, int64_t height, int64_t width) {
  const Array<int32_t> runs = from_counts(counts, height, width);
  const auto all = mrcnn::Bounds{0, 0, static_cast<double>(width), static_cast<double>(height)};
  auto box = mrcnn::run_bounds(runs.data(), runs.size(), height, all);
  if (box.empty()) box = {0, 0, 0, 0};
  return py::make_tuple(box.x1, box.y1, box.x2, box.y2);
}

Array<double> mask_boxes(const Array<double>& points, const Array<int64_t>& ring_start,
                         const Array<int64_t>& instance_ring, const Array<int32_t>& counts,
                         const Array<int64_t>& instance_count, const Array<int64_t>& frame,
                         const Array<double>& windows) {
  require(points.ndim() == 2 && points.shape(1) == 2, "mask_boxes: points must have shape (V, 2)");
  require(frame.ndim() == 2 && frame.shape(1) == 2, "mask_boxes: frame must have shape (I, 2)");
  const int64_t instances = frame.shape(0);
  require(windows.ndim() == 2 && windows.shape(0) == instances && windows.shape(1) == 4,
          "mask_boxes: windows must have shape (I, 4)");
  check_offsets(ring_start, points.shape(0), "mask_boxes: ring_start");
  check_offsets(instance_ring, ring_start.size() - 1, "mask_boxes: instance_ring");
  check_offsets(instance_count, counts.size(), "mask_boxes: instance_count");
  require(instance_ring.size() == instances + 1 && instance_count.size() == instances + 1,
          "mask_boxes: instance_ring and instance_count must have I + 1 entries");

  Array<double> boxes({static_cast<py::ssize_t>(instances), py::ssize_t{4}});
  mrcnn::PolygonBoxes boxes_of_rings;
  for (int64_t i = 0; i < instances; ++i) {
    const double* w = windows.data() + 4 * i;
    const mrcnn::Bounds window{w[0], w[1], w[2], w[3]};
    mrcnn::Bounds bounds;
    const int64_t first = instance_count.data()[i], last = instance_count.data()[i + 1];
    if (const int64_t height = frame.data()[2 * i]; height > 0)
      bounds = mrcnn::run_bounds(counts.data() + first, last - first, height, window);
    const int64_t begin = instance_ring.data()[i], rings = instance_ring.data()[i + 1] - begin;
    if (rings > 0) {
      require_drawable(frame.data()[2 * i], frame.data()[2 * i + 1]);
      bounds = boxes_of_rings.box(points.data(), ring_start.data() + begin, rings,
                                  frame.data()[2 * i], frame.data()[2 * i + 1], window);
    }
    double* out = boxes.mutable_data() + 4 * i;
    if (bounds.empty()) bounds = {0, 0, 0, 0};
    out[0] = bounds.x1, out[1] = bounds.y1, out[2] = bounds.x2, out[3] = bounds.y2;
  }
  return boxes;
}

[[noreturn]] void refuse(const std::string& argument, const std::string& rule,
                         const std::string& value) {
  throw py::value_error("write_pixels: " + argument + " must " + rule + ", got " + value);
}

std::string text(py::handle value) { return py::str(value); }

mrcnn::ResizeFilter filter_of(const std::string& name) {
  if (name == "pillow") return mrcnn::ResizeFilter::kPillow;
  if (name == "opencv") return mrcnn::ResizeFilter::kOpencv;
  if (name == "float") return mrcnn::ResizeFilter::kFloat;
  refuse("filter", "be pillow, opencv or float", name);
}

// Checks for (height, width, 3) with sides so small that byte counts cannot overflow.
void check_pixels(const py::array& array, const char* name, const py::dtype& dtype) {
  if (!array.dtype().is(dtype)) refuse(name, "be of " + text(dtype), text(array.dtype()));
  const auto sides = [&](int d) {
    return array.shape(d) >= 1 && array.shape(d) <= mrcnn::kMaxSide;
  };
  if (array.ndim() != 3 || array.shape(2) != 3 || !sides(0) || !sides(1))
    refuse(name, "have shape (height, width, 3), sides from 1 to 2^27", text(array.attr("shape")));
}

// Returns the part (x1, y1, x2, y2) of an image.
mrcnn::ImageView view_of(const py::array& image, const std::array<int64_t, 4>& window) {
  const auto [x1, y1, x2, y2] = window;
  if (!(0 <= x1 && x1 < x2 && x2 <= image.shape(1) && 0 <= y1 && y1 < y2 && y2 <= image.shape(0)))
    refuse("window", "hold a pixel and lie in the image of " + text(image.attr("shape")),
           text(py::cast(window)));
  const uint8_t* data = static_cast<const uint8_t*>(image.data());
  return {data + y1 * image.strides(0) + x1 * image.strides(1),
          y2 - y1,
          x2 - x1,
          image.strides(0),
          image.strides(1),
          image.strides(2)};
}

mrcnn::PixelSlot slot_of(py::array& out) {
  constexpr py::ssize_t kSize = sizeof(float);
  if (!out.writeable()) refuse("out", "be writeable", "a read-only array");
  void* data = out.mutable_data();
  if (out.strides(2) != kSize || (out.shape(1) > 1 && out.strides(1) != 3 * kSize) ||
      out.strides(0) % kSize != 0 || reinterpret_cast<uintptr_t>(data) % kSize != 0)
    refuse("out", "hold the channels of a row side by side",
           "strides " + text(out.attr("strides")));
  return {static_cast<float*>(data), out.shape(0), out.shape(1), out.strides(0) / kSize};
}

void write_pixels(const py::array& image, const std::array<int64_t, 4>& window, bool mirror_x,
                  bool mirror_y, const std::string& filter, const std::array<float, 3>& mean,
                  const std::array<float, 3>& std, py::array& out) {
  check_pixels(image, "image", py::dtype::of<uint8_t>());
  check_pixels(out, "out", py::dtype::of<float>());
  const mrcnn::ImageView view = view_of(image, window);
  const mrcnn::ResizeFilter resize_filter = filter_of(filter);
  const mrcnn::ChannelScale scale(mean, std);
  const mrcnn::PixelSlot slot = slot_of(out);
  py::gil_scoped_release release;
  mrcnn::write_pixels(view, resize_filter, mirror_x, mirror_y, scale, slot);
}

}  // namespace

PYBIND11_MODULE(mrcnn_host, m) {
  m.doc() =
      "RLE codecs, boxes of annotated masks, and images to pixels. All functions check their "
      "arguments.";
  m.def("build_info", [] { return std::string(MRCNN_BUILD_INFO); });
  m.def("rle_to_string", &to_string, py::arg("counts"),
        "Compress RLE counts (down the columns, background first) to COCO's text.");
  m.def("rle_to_strings", &to_strings, py::arg("counts").noconvert(), py::arg("starts").noconvert(),
        "Compress the RLE of many masks: mask i has counts[starts[i]] up to starts[i + 1].");
  m.def("rle_from_string", &from_string, py::arg("text"), py::arg("height"), py::arg("width"),
        "Return the int32 RLE counts of a COCO text; ValueError unless they fill height x width.");
  m.def("rle_from_counts", &from_counts, py::arg("counts"), py::arg("height"), py::arg("width"),
        "Return int32 RLE counts; ValueError unless they fill height x width.");
  m.def("rle_box", &rle_box, py::arg("counts"), py::arg("height"), py::arg("width"),
        "Return (x1, y1, x2, y2) of the foreground, right and bottom exclusive; zeros if empty.");
  m.def(
      "polygon_edges", &polygon_edges, py::arg("points"), py::arg("ring_start"), py::arg("height"),
      py::arg("width"),
      "Draw polygons as COCO does. Return the int64 positions, counted down the columns, at which\n"
      "their union begins and ends; ring q has points[ring_start[q] : ring_start[q + 1]], (V, 2).");
  m.def("mask_boxes", &mask_boxes, py::arg("points"), py::arg("ring_start"),
        py::arg("instance_ring"), py::arg("counts"), py::arg("instance_count"), py::arg("frame"),
        py::arg("windows"),
        "Return (I, 4) float64: the box of each mask inside its window (x1, y1, x2, y2), in file\n"
        "pixels; zeros if it is not visible. The other arguments are fields of InstanceMasks.");
  m.def("write_pixels", &write_pixels, py::arg("image").noconvert(), py::arg("window"),
        py::arg("mirror_x"), py::arg("mirror_y"), py::arg("filter"), py::arg("mean"),
        py::arg("std"), py::arg("out").noconvert(),
        "Resize the window (x1, y1, x2, y2) of an (h, w, 3) uint8 image to the size of `out`, "
        "mirror\n"
        "it, and normalise it by the mean and std of its channels. `out` is (height, width, 3)\n"
        "float32 with any row stride. ValueError names the argument that does not fit.");
}
