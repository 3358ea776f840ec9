// The inner loops of a JPEG decoder, once for each instruction set. All give the bits of libjpeg-turbo.
//
// Blocks that lie side by side are decoded together, a coefficient of each in one lane of a register, so that nothing
// is ever transposed.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "jpeg_codes.hpp"

namespace safeguard {

constexpr int kLanes = 8;         // blocks that are decoded together
constexpr int kMaxComponents = 3;
constexpr int kGroupSize = (kBlock + 1) * kLanes;  // of kLanes blocks, with room for what is written behind their end

// Blocks as they stand in the scan: first those of one MCU (minimum coded unit), row by row and component by component,
// then those of the next.
struct ScanComponent {
  const DcTable* dc;
  const AcTable* ac;
  int across, down;  // blocks in an MCU
  int prediction;    // the last first coefficient
  // [down][across][kGroupSize]: a group is kLanes blocks of one row, of kLanes MCUs in all; coefficient i of a block in
  // lane l is at i · kLanes + l, in rows of 8 and not in zigzag order.
  std::int16_t* groups;
};

struct Scan {
  std::array<ScanComponent, kMaxComponents> components;
  int count;
};

struct JpegKernels {
  const char* name;

  // MCUs first to last - 1 of kLanes, into groups that hold zeros. False where the scan is not what libjpeg decodes
  // without a word. Reads at most kMaxBlockBytes for each block, and 16 bytes more.
  bool (*read_mcus)(Scan& scan, Bits& bits, int first, int last);

  // By the side of what becomes of a block: 1, 2, 4 or 8 pixels, at [0] to [3]. kLanes blocks → side rows of side ·
  // kLanes samples. quantization is in rows of 8. False where a value is beyond what samples of 8 bits can give.
  std::array<bool (*)(const std::int16_t* group, const std::int16_t* quantization, std::uint8_t* samples,
                      std::ptrdiff_t row_step), 4> transform;

  // `width` pixels, of YCbCr to RGB. Up to a multiple of kLanes is read.
  void (*to_rgb)(const std::uint8_t* y, const std::uint8_t* cb, const std::uint8_t* cr, std::uint8_t* rgb,
                 std::int64_t width);
};

constexpr int kMaxBlockBytes = (16 + kMaxDcSize + (kBlock - 1) * (16 + kMaxAcSize)) / 8 + 1;

// Those that run on this machine, the fastest first; "portable" is always among them.
const std::vector<JpegKernels>& jpeg_kernels();

const JpegKernels* portable_jpeg_kernels();  // jpeg_kernels_portable.cpp
const JpegKernels* avx2_jpeg_kernels();      // jpeg_kernels_avx2.cpp; nullptr where this is no x86 or has no AVX2
const JpegKernels* neon_jpeg_kernels();      // jpeg_kernels_neon.cpp; nullptr where this is no ARM64

}  // namespace safeguard
