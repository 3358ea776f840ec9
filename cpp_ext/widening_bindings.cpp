// Widening as Python sees it: arguments are checked here, the arithmetic is in widening.cpp.
#include <pybind11/numpy.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "bindings.hpp"
#include "thread_pool.hpp"
#include "widening.hpp"

namespace safeguard {
namespace {

namespace py = pybind11;

using Bytes = py::array_t<std::uint8_t, py::array::c_style>;
using Levels = py::array_t<std::int8_t, py::array::c_style>;

void require_shape(const char* name, const py::array& array, const std::vector<py::ssize_t>& shape) {
  if (std::vector<py::ssize_t>(array.shape(), array.shape() + array.ndim()) != shape)
    throw py::value_error(std::string(name) + " do not fit the nibbles");
}

void widen_weight(const Bytes& nibbles, const Bytes& planes, const Bytes& factors, Levels& out, py::ssize_t threads) {
  if (nibbles.ndim() != 2 || planes.ndim() != 3)
    throw py::value_error("nibbles must have 2 dimensions and planes 3");
  const py::ssize_t inputs = nibbles.shape(0), outputs = 2 * nibbles.shape(1), bits = 4 + planes.shape(0);
  if (inputs % kRowsOfAFactor || outputs % kCodesPerByte || bits > 6 || threads < 1)
    throw py::value_error("a weight has a multiple of 32 inputs, a multiple of 8 outputs, 4 to 6 bits, and is widened "
                          "by a thread or more");
  require_shape("planes", planes, {bits - 4, inputs, outputs / kCodesPerByte});
  require_shape("factors", factors, {inputs / kRowsOfAFactor, outputs});
  require_shape("places for levels", out, {inputs, outputs});
  const NarrowWeight weight{inputs, outputs, bits, nibbles.data(), planes.data(), factors.data()};
  std::int8_t* widened = out.mutable_data();  // throws where it is read-only
  {
    const py::gil_scoped_release released;
    const py::ssize_t blocks = inputs / kRowsOfAFactor, jobs = std::min(threads, std::max<py::ssize_t>(blocks, 1));
    run_on_threads(static_cast<std::size_t>(jobs), static_cast<std::size_t>(jobs), [&](std::size_t job) {
      const auto number = static_cast<py::ssize_t>(job);
      widen(weight, blocks * number / jobs * kRowsOfAFactor, blocks * (number + 1) / jobs * kRowsOfAFactor, widened);
    });
  }
}

}  // namespace

void bind_widening(py::module_& m) {
  m.def("widen", &widen_weight, py::arg("nibbles"), py::arg("planes"), py::arg("factors"),
        py::arg("out").noconvert(), py::arg("threads"), "A weight in few bits to one in eight.");
}

}  // namespace safeguard
