#include "jpeg_kernels.hpp"

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

#include <cstring>

#include "cpu_features.hpp"

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,bmi2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,bmi2")
#endif

namespace safeguard {
namespace avx2 {

#include "jpeg_lanes.hpp"

inline bool any(Lanes lanes) {
  const auto bits = reinterpret_cast<__m256i>(lanes);
  return _mm256_testz_si256(bits, bits) == 0;
}

// kLanes pixels, and four bytes behind them.
inline void store_rgb(Lanes r, Lanes g, Lanes b, std::uint8_t* rgb) {
  const __m256i three_of_four = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1));
  const __m256i pixels = _mm256_shuffle_epi8(reinterpret_cast<__m256i>(r | g << 8 | b << 16), three_of_four);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(rgb), _mm256_castsi256_si128(pixels));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(rgb + 12), _mm256_extracti128_si256(pixels, 1));
}

#include "jpeg_kernels_body.hpp"

}  // namespace avx2
}  // namespace safeguard

#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace safeguard {

const JpegKernels* avx2_jpeg_kernels() {
  static constexpr JpegKernels found = avx2::kernels_named("avx2");
  return has_cpu_feature("avx2") && has_cpu_feature("bmi2") ? &found : nullptr;
}

}  // namespace safeguard

#else

namespace safeguard {

const JpegKernels* avx2_jpeg_kernels() { return nullptr; }

}  // namespace safeguard

#endif
