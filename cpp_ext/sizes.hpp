// Sizes of memory, checked before it is asked for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>

namespace safeguard {

// a · b, both >= 0. Throws std::length_error where that does not fit.
inline std::size_t product(std::int64_t a, std::int64_t b) {
  if (a < 0 || b < 0 || (b > 0 && a > std::numeric_limits<std::ptrdiff_t>::max() / b))
    throw std::length_error("preprocessing: a size does not fit into memory");
  return static_cast<std::size_t>(a) * static_cast<std::size_t>(b);
}

}  // namespace safeguard
