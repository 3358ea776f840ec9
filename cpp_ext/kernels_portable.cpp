#include <algorithm>

#include "kernels.hpp"
#include "picture.hpp"

namespace safeguard {
namespace {

constexpr std::int32_t kHalf = 1 << (kWeightBits - 1);
constexpr std::int64_t kColumns = 64;  // of a row at a time: their sums stay in registers or near them

std::uint8_t to_sample(std::int32_t sum) {
  return static_cast<std::uint8_t>(std::clamp(sum >> kWeightBits, 0, 255));
}

void horizontal(const std::uint8_t* const* rows, std::uint8_t* const* resized, const Taps& taps) {
  for (int row = 0; row < kRowsAtOnce; ++row) {
    for (std::int64_t x = 0; x < taps.length; ++x) {
      const std::int32_t* weights = &taps.weights[x * taps.width];
      const std::uint8_t* pixel = rows[row] + taps.first[x] * kChannels;
      std::int32_t red = kHalf, green = kHalf, blue = kHalf;
      for (std::int64_t tap = 0; tap < taps.count[x]; ++tap, pixel += kChannels) {
        red += weights[tap] * pixel[0];
        green += weights[tap] * pixel[1];
        blue += weights[tap] * pixel[2];
      }
      std::uint8_t* out = resized[row] + x * kChannels;
      out[0] = to_sample(red), out[1] = to_sample(green), out[2] = to_sample(blue);
    }
  }
}

void vertical(const std::uint8_t* const* rows, std::uint8_t* resized, std::int64_t bytes, const Taps& taps,
              std::int64_t y) {
  const std::int32_t* weights = &taps.weights[y * taps.width];
  for (std::int64_t start = 0; start < bytes; start += kColumns) {
    const std::int64_t columns = std::min(kColumns, bytes - start);
    std::int32_t sums[kColumns];
    std::fill(sums, sums + kColumns, kHalf);
    for (std::int64_t tap = 0; tap < taps.count[y]; ++tap)
      for (std::int64_t column = 0; column < columns; ++column)
        sums[column] += weights[tap] * rows[tap][start + column];
    for (std::int64_t column = 0; column < columns; ++column) resized[start + column] = to_sample(sums[column]);
  }
}

}  // namespace

const Kernels kPortableKernels{"portable", horizontal, vertical};

}  // namespace safeguard
