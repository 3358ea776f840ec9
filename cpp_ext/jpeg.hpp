// Baseline JPEG at a fraction of its size, with the bits of libjpeg-turbo.
#pragma once

#include <cstdint>

#include "jpeg_header.hpp"
#include "jpeg_kernels.hpp"

namespace safeguard {

// At 1/scale of the sides, rounded up; scale is 2, 4 or 8. `rgb` has room for just that, three bytes a pixel.
// False for a scan that libjpeg-turbo would warn of, or that reaches beyond what 8-bit samples can give; then what is
// in `rgb` is of no use. `end` is that of the file that header.scan points into.
bool decode_jpeg(const JpegHeader& header, const std::uint8_t* end, int scale, const JpegKernels& kernels,
                 std::uint8_t* rgb);

}  // namespace safeguard
