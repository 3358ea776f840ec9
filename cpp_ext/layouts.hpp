// Where the samples of a resized picture go in the input of a model. Each sample is looked up in a table that holds its
// rescaled and normalised value, so no float is computed here. Value is the bit pattern of a float32 or a float16.
#pragma once

#include <cstdint>

#include "resample.hpp"

namespace safeguard {

constexpr int kLevels = 256;

// (3, height, width), channel by channel. `values` is (3, 256).
template <class Value>
RowSink planes(std::int64_t height, std::int64_t width, const Value* values, Value* out);

// The patches of Qwen2-VL, Qwen2.5-VL and Qwen3-VL. `height` and `width` are pixels, multiples of patch · merge.
struct PatchLayout {
  std::int64_t height, width, patch, merge, temporal;
};

// (height / patch · width / patch, 3 · temporal · patch · patch). The patches of a block of merge × merge stand
// together, blocks row by row; the axes of a patch are channel, time, y, x. A still picture is the same at each time.
template <class Value>
RowSink patches(const PatchLayout& layout, const Value* values, Value* out);

}  // namespace safeguard
