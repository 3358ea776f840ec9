// Products of 16 bits: vpmaddwd multiplies samples by half weights and adds the two products of each pair. High and low
// halves are summed apart and joined at the end. Either sum may wrap around at 32 bits: the joined one is right all the
// same, as it fits.
#include "kernels.hpp"

#if defined(__x86_64__) || defined(_M_X64)

#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "cpu_features.hpp"
#include "picture.hpp"

#ifdef _MSC_VER
#define SAFEGUARD_AVX2
#else
#define SAFEGUARD_AVX2 __attribute__((target("avx2")))
#endif

namespace safeguard {
namespace {

constexpr std::int64_t kColumns = 32;  // bytes of a row in one register

struct Sums {
  __m256i high, low;
};

SAFEGUARD_AVX2 inline Sums nothing() {
  return {_mm256_setzero_si256(), _mm256_set1_epi32(1 << (kWeightBits - 1))};
}

// Four halves of two weights, from Taps::halves.
SAFEGUARD_AVX2 inline Sums two_weights(const std::int16_t* halves) {
  std::int32_t pairs[2];
  std::memcpy(pairs, halves, sizeof pairs);
  return {_mm256_set1_epi32(pairs[0]), _mm256_set1_epi32(pairs[1])};
}

SAFEGUARD_AVX2 inline void add(Sums& sums, __m256i pairs_of_samples, const Sums& weights) {
  sums.high = _mm256_add_epi32(sums.high, _mm256_madd_epi16(pairs_of_samples, weights.high));
  sums.low = _mm256_add_epi32(sums.low, _mm256_madd_epi16(pairs_of_samples, weights.low));
}

SAFEGUARD_AVX2 inline __m256i joined(const Sums& sums) {
  return _mm256_srai_epi32(_mm256_add_epi32(_mm256_slli_epi32(sums.high, 16), sums.low), kWeightBits);
}

// 16 bytes of either row.
SAFEGUARD_AVX2 inline __m256i load(const std::uint8_t* row, const std::uint8_t* other) {
  const __m128i below = _mm_loadu_si128(reinterpret_cast<const __m128i*>(row));
  const __m128i above = _mm_loadu_si128(reinterpret_cast<const __m128i*>(other));
  return _mm256_inserti128_si256(_mm256_castsi128_si256(below), above, 1);
}

// The pixels of two rows. The fourth byte falls onto the next pixel, written later, or into the padding.
SAFEGUARD_AVX2 inline void store(const Sums& sums, std::uint8_t* row, std::uint8_t* other) {
  const __m256i words = _mm256_packs_epi32(joined(sums), joined(sums));
  const __m256i bytes = _mm256_packus_epi16(words, words);  // clips to 0..255
  const std::int32_t below = _mm256_extract_epi32(bytes, 0), above = _mm256_extract_epi32(bytes, 4);
  std::memcpy(row, &below, sizeof below);
  std::memcpy(other, &above, sizeof above);
}

// Each register holds two rows, one in each half, as 16-bit pairs of two neighbours: r r g g b b and two zeros.
SAFEGUARD_AVX2 void horizontal(const std::uint8_t* const* rows, std::uint8_t* const* resized, const Taps& taps) {
  const __m256i pixels_0_1 = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1));
  const __m256i pixels_2_3 = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1));
  for (std::int64_t x = 0; x < taps.length; ++x) {
    const std::int16_t* halves = &taps.halves[x * taps.width * 2];
    Sums upper = nothing(), lower = nothing();
    std::int64_t byte = taps.first[x] * kChannels;
    for (std::int64_t tap = 0; tap < taps.count[x]; tap += 4, byte += 4 * kChannels, halves += 8) {
      const Sums weights_0_1 = two_weights(halves), weights_2_3 = two_weights(halves + 4);
      const __m256i above = load(rows[0] + byte, rows[1] + byte);
      const __m256i below = load(rows[2] + byte, rows[3] + byte);
      add(upper, _mm256_shuffle_epi8(above, pixels_0_1), weights_0_1);
      add(upper, _mm256_shuffle_epi8(above, pixels_2_3), weights_2_3);
      add(lower, _mm256_shuffle_epi8(below, pixels_0_1), weights_0_1);
      add(lower, _mm256_shuffle_epi8(below, pixels_2_3), weights_2_3);
    }
    store(upper, resized[0] + x * kChannels, resized[1] + x * kChannels);
    store(lower, resized[2] + x * kChannels, resized[3] + x * kChannels);
  }
}

// 32 columns from `start` on, as 16-bit pairs of one sample from either of two rows.
SAFEGUARD_AVX2 inline void vertical_columns(const std::uint8_t* const* rows, std::uint8_t* resized, std::int64_t start,
                                            const std::int16_t* halves, std::int64_t count) {
  const __m256i zero = _mm256_setzero_si256();
  Sums sums[4] = {nothing(), nothing(), nothing(), nothing()};
  for (std::int64_t tap = 0; tap < count; tap += 2, halves += 4) {
    const Sums weights = two_weights(halves);
    const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows[tap] + start));
    const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows[tap + 1] + start));
    const __m256i first = _mm256_unpacklo_epi8(a, b), second = _mm256_unpackhi_epi8(a, b);
    add(sums[0], _mm256_unpacklo_epi8(first, zero), weights);
    add(sums[1], _mm256_unpackhi_epi8(first, zero), weights);
    add(sums[2], _mm256_unpacklo_epi8(second, zero), weights);
    add(sums[3], _mm256_unpackhi_epi8(second, zero), weights);
  }
  const __m256i first = _mm256_packs_epi32(joined(sums[0]), joined(sums[1]));
  const __m256i second = _mm256_packs_epi32(joined(sums[2]), joined(sums[3]));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(resized + start), _mm256_packus_epi16(first, second));
}

SAFEGUARD_AVX2 void vertical(const std::uint8_t* const* rows, std::uint8_t* resized, std::int64_t bytes,
                             const Taps& taps, std::int64_t y) {
  if (bytes < kColumns) return kPortableKernels.vertical(rows, resized, bytes, taps, y);
  const std::int16_t* halves = &taps.halves[y * taps.width * 2];
  for (std::int64_t start = 0; start < bytes; start += kColumns)  // the last one overlaps with the one before
    vertical_columns(rows, resized, std::min(start, bytes - kColumns), halves, taps.count[y]);
}

}  // namespace

const Kernels* avx2_kernels() {
  static const Kernels found{"avx2", horizontal, vertical};
  return has_cpu_feature("avx2") ? &found : nullptr;
}

}  // namespace safeguard

#else

namespace safeguard {

const Kernels* avx2_kernels() { return nullptr; }

}  // namespace safeguard

#endif
