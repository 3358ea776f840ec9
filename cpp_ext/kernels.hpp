// The two inner loops of a resize, once for each instruction set. All give the same bits: the arithmetic is integer.
#pragma once

#include <cstdint>
#include <vector>

#include "taps.hpp"

namespace safeguard {

constexpr int kRowsAtOnce = 4;            // of the horizontal kernel, so that a weight is loaded once for four rows
constexpr std::int64_t kRowPadding = 16;  // bytes behind a row that the horizontal kernel may read and write

struct Kernels {
  const char* name;

  // Four rows of RGB → four rows of taps.length pixels, of RGB. A row may stand for several of the four.
  void (*horizontal)(const std::uint8_t* const* rows, std::uint8_t* const* resized, const Taps& taps);

  // rows[0], rows[1] and so on, those from taps.first[y] on → row y, of `bytes` bytes. Where taps.count[y] is odd, one
  // more row must be readable. `resized` overlaps with none of them.
  void (*vertical)(const std::uint8_t* const* rows, std::uint8_t* resized, std::int64_t bytes, const Taps& taps,
                   std::int64_t y);
};

// Those that run on this machine, the fastest first; "portable" is always among them.
const std::vector<Kernels>& kernels();

extern const Kernels kPortableKernels;  // kernels_portable.cpp
const Kernels* avx2_kernels();          // kernels_avx2.cpp; nullptr where this is no x86 or has no AVX2
const Kernels* neon_kernels();          // kernels_neon.cpp; nullptr where this is no ARM64

}  // namespace safeguard
