// Weights that are stored in few bits and multiplied in eight.
#pragma once

#include <cstdint>

namespace safeguard {

constexpr std::int64_t kCodesPerByte = 8;    // of a bit plane; a row of a weight is whole bytes of each plane
constexpr std::int64_t kRowsOfAFactor = 32;

// A weight of (inputs, outputs) codes of `bits` bits, 4 to 6, in rows of `outputs` codes. The four lowest bits stand in
// `nibbles`, (inputs, outputs / 2): the lower half of byte i is of code i, the upper one of code i + outputs / 2. Each
// further bit stands in a plane of its own, `planes`, (bits - 4, inputs, outputs / 8): bit t of byte i is of code
// i + t · outputs / 8. So a row is read in runs, and no code lies across two bytes.
struct NarrowWeight {
  std::int64_t inputs, outputs, bits;
  const std::uint8_t* nibbles;
  const std::uint8_t* planes;
  const std::uint8_t* factors;  // (inputs / 32, outputs)
};

// Rows `first` to `last` - 1 of the weight: (code - half) · factor, divided by 2^bits and rounded, where half is
// 2^(bits - 1).
void widen(const NarrowWeight& weight, std::int64_t first, std::int64_t last, std::int8_t* widened);

}  // namespace safeguard
