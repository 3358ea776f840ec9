// A picture in somebody else's memory.
#pragma once

#include <cstdint>

namespace safeguard {

constexpr int kChannels = 3;
constexpr std::int64_t kMaxSide = 1 << 24;  // pixels; Pillow keeps sides in float32, which is exact up to here

// RGB, 8 bits a sample. Steps are in bytes and may be of any size and sign; nothing is written through `data`.
struct Picture {
  const std::uint8_t* data;
  std::int64_t height, width;  // pixels, 1 to kMaxSide
  std::int64_t row_step, pixel_step, channel_step;
};

}  // namespace safeguard
