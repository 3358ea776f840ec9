// From arrays of upright RGB to the input of a model. The arrays are checked here, as everything behind trusts them.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings.hpp"
#include "kernels.hpp"
#include "layouts.hpp"
#include "resample.hpp"
#include "sizes.hpp"
#include "thread_pool.hpp"

namespace py = pybind11;

namespace safeguard {
namespace {

using Size = std::pair<std::int64_t, std::int64_t>;  // height, width

void expect(bool holds, const std::string& message) {
  if (!holds) throw py::value_error(message);
}

void expect_side(std::int64_t side) {
  expect(side >= 1 && side <= kMaxSide,
         "a side of " + std::to_string(side) + " pixels is outside 1 to " + std::to_string(kMaxSide));
}

std::vector<Picture> pictures_of(const std::vector<py::array>& images) {
  std::vector<Picture> pictures;
  for (const py::array& image : images) {
    expect(py::isinstance<py::array_t<std::uint8_t>>(image) && image.ndim() == 3 && image.shape(2) == kChannels,
           "each image must be (h, w, 3) uint8");
    expect_side(image.shape(0));
    expect_side(image.shape(1));
    pictures.push_back({static_cast<const std::uint8_t*>(image.data()), image.shape(0), image.shape(1),
                        image.strides(0), image.strides(1), image.strides(2)});
  }
  return pictures;
}

Filter filter_named(const std::string& name) {
  expect(name == "bicubic" || name == "bilinear", "resample is '" + name + "', must be bicubic or bilinear");
  return name == "bicubic" ? Filter::bicubic : Filter::bilinear;
}

void expect_buffers(const py::array& values, const py::array& out, std::size_t elements) {
  const auto dense = [](const py::array& array) {
    return (array.flags() & py::array::c_style) != 0 && (array.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_) != 0;
  };
  expect(dense(values) && values.size() == kChannels * kLevels && (values.itemsize() == 4 || values.itemsize() == 2),
         "values must be (3, 256), C-contiguous, of 4 or 2 bytes each");
  expect(dense(out) && out.writeable() && out.dtype().equal(values.dtype()) &&
             static_cast<std::size_t>(out.size()) == elements,
         "out must be writeable, C-contiguous, of the type of values, with " + std::to_string(elements) + " elements");
}

// make_sink(number) says where the rows of an image go.
template <class MakeSink>
void resize(const std::vector<Picture>& pictures, const std::vector<Size>& sizes, Filter filter,
            const Kernels& chosen, std::size_t threads, const MakeSink& make_sink) {
  py::gil_scoped_release nogil;
  run_on_threads(pictures.size(), threads, [&](std::size_t number) {
    const auto [height, width] = sizes[number];
    resample(pictures[number], height, width, filter, chosen, make_sink(number));
  });
}

template <class Value>
void write_planes(const std::vector<Picture>& pictures, std::int64_t side, Filter filter, const py::array& values,
                  py::array& out, std::size_t threads, const Kernels& chosen) {
  const auto* table = static_cast<const Value*>(values.data());
  auto* to = static_cast<Value*>(out.mutable_data());
  resize(pictures, std::vector<Size>(pictures.size(), {side, side}), filter, chosen, threads, [=](std::size_t number) {
    return planes(side, side, table, to + static_cast<std::int64_t>(number) * kChannels * side * side);
  });
}

void to_planes(const std::vector<py::array>& images, std::int64_t side, const std::string& resample,
               const py::array& values, py::array& out, std::size_t threads, const std::string& kernel) {
  const std::vector<Picture> pictures = pictures_of(images);
  expect_side(side);
  expect_buffers(values, out, product(static_cast<std::int64_t>(images.size()),
                                      static_cast<std::int64_t>(product(kChannels * side, side))));
  const auto write = values.itemsize() == 4 ? write_planes<std::uint32_t> : write_planes<std::uint16_t>;
  write(pictures, side, filter_named(resample), values, out, threads, kernel_named(kernels(), kernel));
}

template <class Value>
void write_patches(const std::vector<Picture>& pictures, const std::vector<Size>& sizes, const PatchLayout& layout,
                   Filter filter, const py::array& values, py::array& out, std::size_t threads,
                   const Kernels& chosen) {
  const auto* table = static_cast<const Value*>(values.data());
  auto* to = static_cast<Value*>(out.mutable_data());
  std::vector<Value*> starts;
  for (const auto& [height, width] : sizes) {
    starts.push_back(to);
    to += kChannels * layout.temporal * height * width;
  }
  resize(pictures, sizes, filter, chosen, threads, [&](std::size_t number) {
    PatchLayout own = layout;
    std::tie(own.height, own.width) = sizes[number];
    return patches(own, table, starts[number]);
  });
}

void to_patches(const std::vector<py::array>& images, const std::vector<Size>& sizes, std::int64_t patch,
                std::int64_t merge, std::int64_t temporal, const std::string& resample, const py::array& values,
                py::array& out, std::size_t threads, const std::string& kernel) {
  const std::vector<Picture> pictures = pictures_of(images);
  expect(sizes.size() == images.size(), "there must be one size for each image");
  expect_side(patch), expect_side(merge), expect_side(temporal);
  const auto block = static_cast<std::int64_t>(product(patch, merge));
  std::size_t elements = 0;
  for (const auto& [height, width] : sizes) {
    expect_side(height), expect_side(width);
    expect(height % block == 0 && width % block == 0, "each size must be a multiple of patch * merge");
    elements += product(static_cast<std::int64_t>(product(kChannels * temporal, height)), width);
    product(static_cast<std::int64_t>(elements), 1);
  }
  expect_buffers(values, out, elements);
  const auto write = values.itemsize() == 4 ? write_patches<std::uint32_t> : write_patches<std::uint16_t>;
  write(pictures, sizes, {0, 0, patch, merge, temporal}, filter_named(resample), values, out, threads,
        kernel_named(kernels(), kernel));
}

}  // namespace

void bind_preprocessing(py::module_& m) {
  m.def("preprocessing_kernels", [] { return names_of(kernels()); },
        "Names of the resize kernels that run on this machine, the fastest first. All give the same bits.");
  m.def("to_planes", &to_planes, py::arg("images"), py::arg("side"), py::arg("resample"), py::arg("values"),
        py::arg("out").noconvert(), py::arg("threads"), py::arg("kernel"),
        "Write (h, w, 3) uint8 images into out (n, 3, side, side), each sample as values[channel, sample].");
  m.def("to_patches", &to_patches, py::arg("images"), py::arg("sizes"), py::arg("patch"), py::arg("merge"),
        py::arg("temporal"), py::arg("resample"), py::arg("values"), py::arg("out").noconvert(), py::arg("threads"),
        py::arg("kernel"),
        "Write (h, w, 3) uint8 images, resized to sizes (height, width), into out (patches of all images, "
        "3 * temporal * patch * patch), each sample as values[channel, sample].");
}

}  // namespace safeguard
