// JPEG files as Python sees them: arguments are checked here, the decoder is beside this file.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "bindings.hpp"
#include "jpeg.hpp"
#include "picture.hpp"

namespace safeguard {
namespace {

namespace py = pybind11;

py::object decode(const py::bytes& file, std::int64_t height, std::int64_t width, int scale,
                  const std::string& kernel) {
  if (scale != 2 && scale != 4 && scale != 8)
    throw py::value_error("scale is " + std::to_string(scale) + ", must be 2, 4 or 8");
  const JpegKernels& chosen = kernel_named(jpeg_kernels(), kernel);
  const std::string_view bytes = file;
  const auto* data = reinterpret_cast<const std::uint8_t*>(bytes.data());
  const std::uint8_t* const end = data + bytes.size();
  const std::optional<JpegHeader> header = read_jpeg_header(data, end);
  if (!header || header->height != height || header->width != width) return py::none();
  py::array_t<std::uint8_t> rgb({(height + scale - 1) / scale, (width + scale - 1) / scale, std::int64_t{kChannels}});
  std::uint8_t* const pixels = rgb.mutable_data();
  bool done;
  {
    py::gil_scoped_release nogil;
    done = decode_jpeg(*header, end, scale, chosen, pixels);
  }
  return done ? py::object(rgb) : py::object(py::none());
}

std::int64_t count_scans(const py::bytes& file) {
  const std::string_view bytes = file;
  std::int64_t count = 0;
  for (std::size_t place = bytes.find('\xFF'); place < bytes.size(); place = bytes.find('\xFF', place + 1))
    if (place + 1 < bytes.size() && bytes[place + 1] == '\xDA') ++count;
  return count;
}

}  // namespace

void bind_jpeg(py::module_& m) {
  m.def("jpeg_kernels", [] { return names_of(jpeg_kernels()); },
        "Names of the JPEG decoder's kernels that run on this machine, the fastest first. All give the same bits.");
  m.def("decode_jpeg", &decode, py::arg("file"), py::arg("height"), py::arg("width"), py::arg("scale"),
        py::arg("kernel"),
        "A JPEG file of height × width at 1/scale of its sides as (h, w, 3) uint8; None for what is left to libjpeg.");
  m.def("count_scan_markers", &count_scans, py::arg("file"),
        "How often the two bytes of the marker that opens a scan stand in a file, thumbnails included.");
}

}  // namespace safeguard
