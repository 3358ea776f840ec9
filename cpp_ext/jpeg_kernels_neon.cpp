#include "jpeg_kernels.hpp"

#if defined(__aarch64__) && defined(__GNUC__)

#include <arm_neon.h>

#include <cstring>

namespace safeguard {
namespace neon {

#include "jpeg_lanes.hpp"

inline bool any(Lanes lanes) {
  std::uint64_t words[sizeof lanes / 8];
  std::memcpy(words, &lanes, sizeof lanes);
  return (words[0] | words[1] | words[2] | words[3]) != 0;
}

// kLanes pixels.
inline void store_rgb(Lanes r, Lanes g, Lanes b, std::uint8_t* rgb) {
  typedef std::uint8_t Bytes __attribute__((vector_size(kLanes)));
  uint8x8x3_t pixels;
  int channel = 0;
  for (const Lanes& samples : {r, g, b}) {
    const Bytes bytes = __builtin_convertvector(samples, Bytes);
    std::memcpy(&pixels.val[channel++], &bytes, sizeof bytes);
  }
  vst3_u8(rgb, pixels);
}

#include "jpeg_kernels_body.hpp"

}  // namespace neon

const JpegKernels* neon_jpeg_kernels() {
  static constexpr JpegKernels found = neon::kernels_named("neon");
  return &found;
}

}  // namespace safeguard

#else

namespace safeguard {

const JpegKernels* neon_jpeg_kernels() { return nullptr; }

}  // namespace safeguard

#endif
