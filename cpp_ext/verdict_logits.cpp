// One pass over a row, block by block: widen to float, find the block's maximum, add up exp(logit - maximum so far).
// The loops below have no branch and no comparison of floats, so compilers turn them into vector instructions without
// being allowed to reorder a sum: one source for every instruction set, and one result.
#include "verdict_logits.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "cpu_features.hpp"

#if (defined(__x86_64__) || defined(__i386__)) && defined(__GNUC__)
#define SAFEGUARD_HAS_AVX2 1
#define SAFEGUARD_WITH_AVX2 __attribute__((target("avx2")))  // without fma, which would round otherwise
#else
#define SAFEGUARD_HAS_AVX2 0  // NEON is part of every ARM64; MSVC has no target per function
#endif
#ifdef _MSC_VER
#define SAFEGUARD_INLINE __forceinline
#else
#define SAFEGUARD_INLINE inline __attribute__((always_inline))  // so that it is compiled for its caller's target
#endif

namespace safeguard {
namespace {

constexpr std::size_t kBlock = 1024;  // logits; as floats they stay in the first-level cache
constexpr std::size_t kLanes = 8;     // sums that run side by side
constexpr float kInfinite = std::numeric_limits<float>::infinity();

SAFEGUARD_INLINE std::uint32_t bits_of(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

SAFEGUARD_INLINE float float_of(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

SAFEGUARD_INLINE float widen_bfloat16(std::uint16_t half) { return float_of(std::uint32_t{half} << 16); }

// All ones where a < b, zero elsewhere; both below 2^31.
SAFEGUARD_INLINE std::uint32_t where_less(std::uint32_t a, std::uint32_t b) { return 0u - ((a - b) >> 31); }

// IEEE 754 binary16 → binary32, exact. Exponents move from bias 15 to 127; both ends of their range are special.
SAFEGUARD_INLINE float widen_float16(std::uint16_t half) {
  const std::uint32_t sign = (half & 0x8000u) << 16, magnitude = (half & 0x7fffu) << 13;
  const std::uint32_t infinite = where_less(0x0f7fffffu, magnitude) & (112u << 23);  // 31 becomes 255
  const std::uint32_t normal = magnitude + (112u << 23) + infinite;
  const std::uint32_t subnormal = bits_of(float_of(magnitude + (113u << 23)) - float_of(113u << 23));
  const std::uint32_t is_subnormal = where_less(magnitude, 0x00800000u);
  return float_of((subnormal & is_subnormal) | (normal & ~is_subnormal) | sign);
}

// exp(x) for x in [-inf, 0], within 2e-7 of it relatively; below -87 it is exp(-87), which is nothing beside 1 and
// never subnormal. x = n·ln 2 + r with |r| ≤ ln 2 / 2; the series of exp(r) ends where its rest is below 6e-9.
SAFEGUARD_INLINE float exp_of_negative(float x) {
  constexpr float kRounding = 12582912.0f;  // 1.5 · 2^23: a sum with it has no digits behind the point
  constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;  // n · kLn2High is exact
  x = float_of(std::min(bits_of(x), bits_of(-87.0f)));  // the bits of negative floats grow with their magnitude
  const float shifted = x * 1.44269504f + kRounding;
  const float n = shifted - kRounding;
  const float r = (x - n * kLn2High) - n * kLn2Low;
  float series = r * (1.0f / 5040) + 1.0f / 720;
  series = series * r + 1.0f / 120;
  series = series * r + 1.0f / 24;
  series = series * r + 1.0f / 6;
  series = series * r + 1.0f / 2;
  series = series * r + 1.0f;
  series = series * r + 1.0f;
  return series * float_of((bits_of(shifted) << 23) + (127u << 23));  // · 2^n
}

// Integers in the order of the floats with these bits, and back; NaNs lie beyond the infinities.
SAFEGUARD_INLINE std::int32_t order_of(std::uint32_t bits) {
  return static_cast<std::int32_t>(bits ^ ((0u - (bits >> 31)) & 0x7fffffffu));
}
SAFEGUARD_INLINE float float_in_order(std::int32_t order) {
  const auto bits = static_cast<std::uint32_t>(order);
  return float_of(bits ^ ((0u - (bits >> 31)) & 0x7fffffffu));
}

// The largest of a block; NaN if any is NaN or +inf.
SAFEGUARD_INLINE float largest(const float* block) {
  std::int32_t highest = order_of(bits_of(-kInfinite)), lowest = order_of(bits_of(kInfinite));
  for (std::size_t i = 0; i < kBlock; ++i) {
    const std::int32_t order = order_of(bits_of(block[i]));
    highest = std::max(highest, order);
    lowest = std::min(lowest, order);
  }
  const bool finite = highest < order_of(bits_of(kInfinite)) && lowest >= order_of(bits_of(-kInfinite));
  return finite ? float_in_order(highest) : std::numeric_limits<float>::quiet_NaN();
}

// Sum of exp(logit - maximum) over a block: logit i in lane i mod 8, then the lanes in pairs.
SAFEGUARD_INLINE double sum_exp(const float* block, float maximum) {
  float terms[kBlock];
  for (std::size_t i = 0; i < kBlock; ++i) terms[i] = exp_of_negative(block[i] - maximum);
  double lanes[kLanes] = {};
  for (std::size_t i = 0; i < kBlock; i += kLanes)
    for (std::size_t lane = 0; lane < kLanes; ++lane) lanes[lane] += terms[i + lane];
  return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}

template <class Element>
SAFEGUARD_INLINE void gather(const char* first, std::ptrdiff_t stride, std::size_t count, Element* out) {
  if (stride == sizeof(Element)) {
    std::memcpy(out, first, count * sizeof(Element));
    return;
  }
  for (std::size_t i = 0; i < count; ++i)
    std::memcpy(out + i, first + static_cast<std::ptrdiff_t>(i) * stride, sizeof(Element));
}

// `count` ≤ kBlock logits as floats, filled up with -inf: in `room`, or where they lie if that will do.
SAFEGUARD_INLINE const float* read(const char* first, LogitType type, std::ptrdiff_t stride, std::size_t count,
                                   float* room) {
  if (type == LogitType::float32) {
    if (stride == sizeof(float) && count == kBlock && reinterpret_cast<std::uintptr_t>(first) % alignof(float) == 0)
      return reinterpret_cast<const float*>(first);
    gather(first, stride, count, room);
  } else {
    std::uint16_t halves[kBlock] = {};
    gather(first, stride, count, halves);
    if (type == LogitType::float16)
      for (std::size_t i = 0; i < kBlock; ++i) room[i] = widen_float16(halves[i]);
    else
      for (std::size_t i = 0; i < kBlock; ++i) room[i] = widen_bfloat16(halves[i]);
  }
  std::fill(room + count, room + kBlock, -kInfinite);
  return room;
}

SAFEGUARD_INLINE double log_sum_exp_of(const char* first, LogitType type, std::ptrdiff_t stride, std::size_t count) {
  float room[kBlock];
  float maximum = -kInfinite;
  double sum = 0;  // of exp(logit - maximum)
  for (std::size_t done = 0; done < count; done += kBlock) {
    const float* block = read(first + static_cast<std::ptrdiff_t>(done) * stride, type, stride,
                              std::min(kBlock, count - done), room);
    const float top = largest(block);
    if (std::isnan(top)) return top;
    if (top > maximum) {
      sum *= std::exp(static_cast<double>(maximum) - top);
      maximum = top;
    }
    if (maximum > -kInfinite) sum += sum_exp(block, maximum);
  }
  return maximum + std::log(sum);
}

double log_sum_exp_portable(const char* first, LogitType type, std::ptrdiff_t stride, std::size_t count) {
  return log_sum_exp_of(first, type, stride, count);
}

#if SAFEGUARD_HAS_AVX2
SAFEGUARD_WITH_AVX2 double log_sum_exp_avx2(const char* first, LogitType type, std::ptrdiff_t stride,
                                            std::size_t count) {
  return log_sum_exp_of(first, type, stride, count);
}

bool has_avx2() {
  static const bool found = has_cpu_feature("avx2");
  return found;
}
#endif

const char* address(const LogitTable& table, std::size_t row, std::size_t token) {
  return table.first + static_cast<std::ptrdiff_t>(row) * table.row_stride +
         static_cast<std::ptrdiff_t>(token) * table.token_stride;
}

double logit(const LogitTable& table, std::size_t row, std::size_t token) {
  float room[kBlock];
  return *read(address(table, row, token), table.type, 0, 1, room);
}

}  // namespace

double log_sum_exp(const LogitTable& table, std::size_t row, bool portable) {
  const char* first = address(table, row, 0);
#if SAFEGUARD_HAS_AVX2
  if (!portable && has_avx2()) return log_sum_exp_avx2(first, table.type, table.token_stride, table.vocabulary);
#endif
  static_cast<void>(portable);
  return log_sum_exp_portable(first, table.type, table.token_stride, table.vocabulary);
}

void verdict_log_probabilities(const LogitTable& table, std::size_t safe, std::size_t unsafe, bool portable,
                               double* out) {
  for (std::size_t row = 0; row < table.rows; ++row) {
    const double total = log_sum_exp(table, row, portable);
    *out++ = logit(table, row, safe) - total;
    *out++ = logit(table, row, unsafe) - total;
  }
}

}  // namespace safeguard
