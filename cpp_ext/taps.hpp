// Which pixels of a side make one pixel of the resized side, and with what weights.
#pragma once

#include <cstdint>
#include <vector>

namespace safeguard {

enum class Filter { bicubic, bilinear };  // bicubic: Keys' kernel with a = -0.5

constexpr int kWeightBits = 22;  // of the fraction: 32 bits less 8 of the sample and 2 for overshoot and sign
constexpr int kTapGroup = 4;     // weights are padded with zeros to a multiple of this

// One resized pixel is (sum of weight · sample + half) >> kWeightBits, clipped to 0..255.
struct Taps {
  std::int64_t length = 0;            // pixels of the resized side
  std::int64_t width = 0;             // weights of a pixel with their padding
  std::vector<std::int64_t> first;    // (length) first pixel of the input
  std::vector<std::int64_t> count;    // (length) pixels of the input, >= 1 and <= width
  std::vector<std::int32_t> weights;  // (length, width)
  // (length, width / 2, 4) The same weights in two halves, weight = high · 2^16 + low, as kernels with 16-bit products
  // want them: for every two weights a and b the high half of a and of b, then the low half of a and of b.
  std::vector<std::int16_t> halves;
};

// The weights of Pillow's Image.resize (Pillow 13, libImaging/Resample.c), to the bit: in double, normalised to a sum
// of 1, rounded half away from zero. The filter widens with the scale where the side shrinks, which antialiases.
// Both sizes are in pixels, 1 to kMaxSide. Throws std::length_error where the weights would not fit into memory.
Taps taps_of(std::int64_t size, std::int64_t resized, Filter filter);

}  // namespace safeguard
