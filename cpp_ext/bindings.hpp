// The parts of safeguard_sdk._fast. Each adds its functions to the module and lives in the file named beside it.
#pragma once

#include <pybind11/pybind11.h>

namespace safeguard {

void bind_preprocessing(pybind11::module_& module);  // preprocessing_bindings.cpp
void bind_decoding(pybind11::module_& module);       // decoding_bindings.cpp
void bind_jpeg(pybind11::module_& module);           // jpeg_bindings.cpp

}  // namespace safeguard
