#include "taps.hpp"

#include <algorithm>
#include <cmath>

#include "sizes.hpp"

namespace safeguard {
namespace {

double bicubic(double x) {
  x = std::fabs(x);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * -0.5;
  return 0;
}

double bilinear(double x) {
  x = std::fabs(x);
  return x < 1 ? 1 - x : 0;
}

std::int32_t fixed_point(double weight) {
  return static_cast<std::int32_t>((weight < 0 ? -0.5 : 0.5) + weight * (1 << kWeightBits));  // the cast drops digits
}

std::vector<std::int16_t> split(const std::vector<std::int32_t>& weights) {
  std::vector<std::int16_t> halves(weights.size() * 2);
  for (std::size_t index = 0; index < weights.size(); ++index) {
    const auto low = static_cast<std::int16_t>(weights[index] & 0xffff);  // signed; the high half makes up
    const auto high = static_cast<std::int16_t>((weights[index] - low) >> 16);
    const std::size_t pair = index / 2 * 4 + index % 2;
    halves[pair] = high, halves[pair + 2] = low;
  }
  return halves;
}

}  // namespace

Taps taps_of(std::int64_t size, std::int64_t resized, Filter filter) {
  const auto weight_at = filter == Filter::bicubic ? bicubic : bilinear;
  const double scale = static_cast<double>(size) / static_cast<double>(resized);
  const double stretch = std::max(scale, 1.0);
  const double reach = (filter == Filter::bicubic ? 2.0 : 1.0) * stretch;  // pixels of the input to either side
  const double shrink = 1.0 / stretch;

  Taps taps;
  taps.length = resized;
  const std::int64_t widest = std::min(size, static_cast<std::int64_t>(std::ceil(reach)) * 2 + 1);
  taps.width = (widest + kTapGroup - 1) / kTapGroup * kTapGroup;
  taps.first.resize(product(resized, 1));
  taps.count.resize(product(resized, 1));
  taps.weights.resize(product(resized, taps.width));

  std::vector<double> weights(product(widest, 1));
  for (std::int64_t x = 0; x < resized; ++x) {
    const double center = (static_cast<double>(x) + 0.5) * scale;
    const std::int64_t first = std::max<std::int64_t>(static_cast<std::int64_t>(center - reach + 0.5), 0);
    const std::int64_t end = std::min(static_cast<std::int64_t>(center + reach + 0.5), size);
    double sum = 0;
    for (std::int64_t tap = 0; tap < end - first; ++tap) {
      weights[tap] = weight_at((static_cast<double>(tap + first) - center + 0.5) * shrink);
      sum += weights[tap];
    }
    for (std::int64_t tap = 0; tap < end - first; ++tap)
      taps.weights[x * taps.width + tap] = fixed_point(sum != 0 ? weights[tap] / sum : weights[tap]);
    taps.first[x] = first;
    taps.count[x] = end - first;
  }
  taps.halves = split(taps.weights);
  return taps;
}

}  // namespace safeguard
