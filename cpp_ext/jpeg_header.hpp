// The header of a JPEG file of the common kind.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "jpeg_codes.hpp"

namespace safeguard {

struct JpegComponent {
  int across, down;                             // blocks in an MCU
  std::array<std::int16_t, kBlock> quantization;  // in rows of 8
  std::shared_ptr<const DcTable> dc;
  std::shared_ptr<const AcTable> ac;
};

struct JpegHeader {
  std::int64_t height, width;
  std::vector<JpegComponent> components;  // grey, or Y, Cb, Cr
  std::int64_t restart_interval;          // MCUs from one restart marker to the next; 0: there is none
  const std::uint8_t* scan;               // where its bits begin
};

// Of a file at `data` up to `end`; nothing for what is not decoded here: passes that are more than one, arithmetic
// codes, samples of other than 8 bits, colours other than grey and YCbCr, chroma subsampled otherwise than by 2 × 2,
// 2 × 1 or not at all, and whatever looks odd.
std::optional<JpegHeader> read_jpeg_header(const std::uint8_t* data, const std::uint8_t* end);

}  // namespace safeguard
