// A picture resized to the bit as Pillow 13 does it (Image.resize without reducing_gap): two passes, each rounded to 8
// bits, and none over a side that keeps its length. Horizontal first, unless the height shrinks by more than twice as
// many pixels as the width (python-pillow/Pillow, pull request 9549).
#pragma once

#include <cstdint>
#include <functional>

#include "kernels.hpp"
#include "picture.hpp"
#include "taps.hpp"

namespace safeguard {

// Takes row y of the resized picture: width · 3 bytes of RGB, valid during the call.
using RowSink = std::function<void(const std::uint8_t* row, std::int64_t y)>;

// Calls `sink` for every row from the top down. No resized picture is held, only the few rows that the next row needs.
// `height` and `width` are in pixels, 1 to kMaxSide. Throws std::bad_alloc and std::length_error.
void resample(const Picture& picture, std::int64_t height, std::int64_t width, Filter filter, const Kernels& kernels,
              const RowSink& sink);

}  // namespace safeguard
