// safeguard_sdk._fast: what Python sees of the kernels beside this file. No logic here. Stub: safeguard_sdk/_fast.pyi.
#include "bindings.hpp"

#include <pybind11/stl.h>

#include "cpu_features.hpp"

PYBIND11_MODULE(_fast, m) {
  m.doc() = "Compiled parts of safeguard_sdk.";
  m.def("cpu_features", &safeguard::cpu_features,
        "Instruction sets for inference that this CPU and its operating system support, oldest first.");
  safeguard::bind_preprocessing(m);
  safeguard::bind_decoding(m);
  safeguard::bind_jpeg(m);
  safeguard::bind_widening(m);
}
