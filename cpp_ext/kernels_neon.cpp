// Products of 32 bits, four at a time: multiply and add is one instruction on ARM.
#include "kernels.hpp"

#if defined(__aarch64__)

#include <arm_neon.h>

#include <algorithm>
#include <cstring>

#include "picture.hpp"

namespace safeguard {
namespace {

constexpr std::int32_t kHalf = 1 << (kWeightBits - 1);
constexpr std::int64_t kColumns = 16;  // bytes of a row in one register

uint16x4_t joined(int32x4_t sums) { return vqmovun_s32(vshrq_n_s32(sums, kWeightBits)); }  // below zero becomes zero

// Red, green, blue and a zero of one of four pixels, as 32-bit lanes.
template <int pixel>
int32x4_t lanes_of(uint8x16_t pixels) {
  constexpr std::uint8_t none = 255, red = 3 * pixel, green = red + 1, blue = red + 2;  // an index over 15 gives zero
  const std::uint8_t from[16] = {red,  none, none, none, green, none, none, none,
                                 blue, none, none, none, none,  none, none, none};
  return vreinterpretq_s32_u8(vqtbl1q_u8(pixels, vld1q_u8(from)));
}

void horizontal(const std::uint8_t* const* rows, std::uint8_t* const* resized, const Taps& taps) {
  for (std::int64_t x = 0; x < taps.length; ++x) {
    const std::int32_t* four_weights = &taps.weights[x * taps.width];
    int32x4_t sums[kRowsAtOnce] = {vdupq_n_s32(kHalf), vdupq_n_s32(kHalf), vdupq_n_s32(kHalf), vdupq_n_s32(kHalf)};
    std::int64_t byte = taps.first[x] * kChannels;
    for (std::int64_t tap = 0; tap < taps.count[x]; tap += 4, byte += 4 * kChannels, four_weights += 4) {
      const int32x4_t weights = vld1q_s32(four_weights);
      for (int row = 0; row < kRowsAtOnce; ++row) {
        const uint8x16_t pixels = vld1q_u8(rows[row] + byte);
        sums[row] = vmlaq_laneq_s32(sums[row], lanes_of<0>(pixels), weights, 0);
        sums[row] = vmlaq_laneq_s32(sums[row], lanes_of<1>(pixels), weights, 1);
        sums[row] = vmlaq_laneq_s32(sums[row], lanes_of<2>(pixels), weights, 2);
        sums[row] = vmlaq_laneq_s32(sums[row], lanes_of<3>(pixels), weights, 3);
      }
    }
    for (int row = 0; row < kRowsAtOnce; ++row) {
      const uint16x4_t words = joined(sums[row]);
      const std::uint32_t pixel = vget_lane_u32(vreinterpret_u32_u8(vqmovn_u16(vcombine_u16(words, words))), 0);
      std::memcpy(resized[row] + x * kChannels, &pixel, sizeof pixel);  // the fourth byte is overwritten or padding
    }
  }
}

void vertical_columns(const std::uint8_t* const* rows, std::uint8_t* resized, std::int64_t start,
                      const std::int32_t* weights, std::int64_t count) {
  int32x4_t sums[4] = {vdupq_n_s32(kHalf), vdupq_n_s32(kHalf), vdupq_n_s32(kHalf), vdupq_n_s32(kHalf)};
  for (std::int64_t tap = 0; tap < count; ++tap) {
    const uint8x16_t samples = vld1q_u8(rows[tap] + start);
    const uint16x8_t first = vmovl_u8(vget_low_u8(samples)), second = vmovl_high_u8(samples);
    sums[0] = vmlaq_n_s32(sums[0], vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(first))), weights[tap]);
    sums[1] = vmlaq_n_s32(sums[1], vreinterpretq_s32_u32(vmovl_high_u16(first)), weights[tap]);
    sums[2] = vmlaq_n_s32(sums[2], vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(second))), weights[tap]);
    sums[3] = vmlaq_n_s32(sums[3], vreinterpretq_s32_u32(vmovl_high_u16(second)), weights[tap]);
  }
  const uint16x8_t first = vcombine_u16(joined(sums[0]), joined(sums[1]));
  const uint16x8_t second = vcombine_u16(joined(sums[2]), joined(sums[3]));
  vst1q_u8(resized + start, vcombine_u8(vqmovn_u16(first), vqmovn_u16(second)));
}

void vertical(const std::uint8_t* const* rows, std::uint8_t* resized, std::int64_t bytes, const Taps& taps,
              std::int64_t y) {
  if (bytes < kColumns) return kPortableKernels.vertical(rows, resized, bytes, taps, y);
  const std::int32_t* weights = &taps.weights[y * taps.width];
  for (std::int64_t start = 0; start < bytes; start += kColumns)  // the last one overlaps with the one before
    vertical_columns(rows, resized, std::min(start, bytes - kColumns), weights, taps.count[y]);
}

}  // namespace

const Kernels* neon_kernels() {
  static const Kernels found{"neon", horizontal, vertical};  // the ABI of ARM64 demands NEON
  return &found;
}

}  // namespace safeguard

#else

namespace safeguard {

const Kernels* neon_kernels() { return nullptr; }

}  // namespace safeguard

#endif
