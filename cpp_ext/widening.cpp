#include "widening.hpp"

namespace safeguard {
namespace {

template <int kBits>
void widen_row(const std::uint8_t* nibbles, const std::uint8_t* planes, std::int64_t plane_size,
               const std::uint8_t* factors, std::int64_t outputs, std::int8_t* widened) {
  constexpr int kHalf = 1 << (kBits - 1);
  const std::int64_t run = outputs / kCodesPerByte;
  for (int part = 0; part < kCodesPerByte; ++part) {
    const std::uint8_t* low = nibbles + part % 4 * run;
    const int low_shift = part / 4 * 4;
    const std::uint8_t* factor = factors + part * run;
    std::int8_t* out = widened + part * run;
    for (std::int64_t i = 0; i < run; ++i) {
      int code = low[i] >> low_shift & 15;
      for (int plane = 0; plane < kBits - 4; ++plane)
        code |= (planes[plane * plane_size + i] >> part & 1) << (4 + plane);
      // At most 32 · 255, so that vectors of 16 bits will do.
      const auto product = static_cast<std::int16_t>((code - kHalf) * factor[i] + kHalf);
      out[i] = static_cast<std::int8_t>(product >> kBits);
    }
  }
}

using RowWidener = void (*)(const std::uint8_t*, const std::uint8_t*, std::int64_t, const std::uint8_t*, std::int64_t,
                            std::int8_t*);

}  // namespace

void widen(const NarrowWeight& weight, std::int64_t first, std::int64_t last, std::int8_t* widened) {
  const RowWidener widen_row_of[] = {widen_row<4>, widen_row<5>, widen_row<6>};
  const RowWidener widen_one = widen_row_of[weight.bits - 4];
  const std::int64_t plane_row = weight.outputs / kCodesPerByte;
  for (std::int64_t row = first; row < last; ++row)
    widen_one(weight.nibbles + row * weight.outputs / 2, weight.planes + row * plane_row, weight.inputs * plane_row,
              weight.factors + row / kRowsOfAFactor * weight.outputs, weight.outputs,
              widened + row * weight.outputs);
}

}  // namespace safeguard
