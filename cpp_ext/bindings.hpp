// The parts of safeguard_sdk._fast. Each adds its functions to the module and lives in the file named beside it.
#pragma once

#include <pybind11/pybind11.h>

#include <string>
#include <vector>

namespace safeguard {

// Of the kernels that run here, the one of this name.
template <class K>
const K& kernel_named(const std::vector<K>& kernels, const std::string& name) {
  for (const K& candidate : kernels)
    if (candidate.name == name) return candidate;
  throw pybind11::value_error("kernel '" + name + "' does not run here");
}

template <class K>
std::vector<std::string> names_of(const std::vector<K>& kernels) {
  std::vector<std::string> names;
  for (const K& candidate : kernels) names.emplace_back(candidate.name);
  return names;
}

void bind_preprocessing(pybind11::module_& module);  // preprocessing_bindings.cpp
void bind_decoding(pybind11::module_& module);       // decoding_bindings.cpp
void bind_jpeg(pybind11::module_& module);           // jpeg_bindings.cpp
void bind_widening(pybind11::module_& module);       // widening_bindings.cpp

}  // namespace safeguard
