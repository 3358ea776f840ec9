// Lanes in plain C++, for any compiler and any byte order.
#include <cstring>

#include "jpeg_kernels.hpp"

namespace safeguard {
namespace {

struct Lanes {
  std::int32_t values[kLanes];

  std::int32_t operator[](int lane) const { return values[lane]; }
};

template <typename Operation>
inline Lanes of_each(const Lanes& a, const Lanes& b, Operation operation) {
  Lanes result;
  for (int lane = 0; lane < kLanes; ++lane) result.values[lane] = operation(a[lane], b[lane]);
  return result;
}

inline Lanes all(std::int32_t value) {
  Lanes result;
  for (std::int32_t& each : result.values) each = value;
  return result;
}

inline Lanes operator+(const Lanes& a, const Lanes& b) { return of_each(a, b, [](auto x, auto y) { return x + y; }); }
inline Lanes operator-(const Lanes& a, const Lanes& b) { return of_each(a, b, [](auto x, auto y) { return x - y; }); }
inline Lanes operator*(const Lanes& a, const Lanes& b) { return of_each(a, b, [](auto x, auto y) { return x * y; }); }
inline Lanes operator|(const Lanes& a, const Lanes& b) { return of_each(a, b, [](auto x, auto y) { return x | y; }); }
inline Lanes operator+(const Lanes& a, std::int32_t b) { return a + all(b); }
inline Lanes operator-(const Lanes& a, std::int32_t b) { return a - all(b); }
inline Lanes operator-(std::int32_t a, const Lanes& b) { return all(a) - b; }
inline Lanes operator*(const Lanes& a, std::int32_t b) { return a * all(b); }
inline Lanes operator&(const Lanes& a, std::int32_t b) {
  return of_each(a, all(b), [](auto x, auto y) { return x & y; });
}
inline Lanes operator>>(const Lanes& a, int places) {
  return of_each(a, all(places), [](auto x, auto y) { return x >> y; });
}

inline Lanes zero() { return all(0); }

template <typename Narrow>
inline Lanes load(const Narrow* from) {
  Lanes result;
  for (int lane = 0; lane < kLanes; ++lane) result.values[lane] = from[lane];
  return result;
}

inline Lanes clipped(const Lanes& lanes) {  // to 0..255
  return of_each(lanes, zero(), [](auto x, auto) { return x < 0 ? 0 : x > 255 ? 255 : x; });
}

inline bool any(const Lanes& lanes) {
  std::int32_t all_bits = 0;
  for (const std::int32_t value : lanes.values) all_bits |= value;
  return all_bits != 0;
}

// [column][lane] → side samples of lane 0, then those of lane 1 and so on
template <int side>
inline void store_samples(const Lanes* columns, std::uint8_t* samples) {
  for (int lane = 0; lane < kLanes; ++lane)
    for (int column = 0; column < side; ++column) *samples++ = static_cast<std::uint8_t>(columns[column][lane]);
}

// kLanes pixels.
inline void store_rgb(const Lanes& r, const Lanes& g, const Lanes& b, std::uint8_t* rgb) {
  for (int lane = 0; lane < kLanes; ++lane)
    for (const Lanes* sample : {&r, &g, &b}) *rgb++ = static_cast<std::uint8_t>((*sample)[lane]);
}

#include "jpeg_kernels_body.hpp"

}  // namespace

const JpegKernels* portable_jpeg_kernels() {
  static constexpr JpegKernels found = kernels_named("portable");
  return &found;
}

}  // namespace safeguard
