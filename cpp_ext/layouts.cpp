#include "layouts.hpp"

#include <algorithm>

namespace safeguard {

template <class Value>
RowSink planes(std::int64_t height, std::int64_t width, const Value* values, Value* out) {
  return [=](const std::uint8_t* row, std::int64_t y) {
    for (int channel = 0; channel < kChannels; ++channel) {
      const Value* value_of = values + channel * kLevels;
      Value* to = out + (channel * height + y) * width;
      for (std::int64_t x = 0; x < width; ++x) to[x] = value_of[row[x * kChannels + channel]];
    }
  };
}

template <class Value>
RowSink patches(const PatchLayout& layout, const Value* values, Value* out) {
  return [=](const std::uint8_t* row, std::int64_t y) {
    const auto [height, width, patch, merge, temporal] = layout;
    const std::int64_t plane = patch * patch, columns = width / patch;
    const std::int64_t patch_row = y / patch, row_in_patch = y % patch;
    // The first patch of this row of patches is that many behind the start of its row of blocks, of merge rows.
    Value* row_of_blocks = out + patch_row / merge * merge * columns * kChannels * temporal * plane;
    for (std::int64_t column = 0; column < columns; ++column, row += patch * kChannels) {
      const std::int64_t index = (column / merge * merge + patch_row % merge) * merge + column % merge;
      Value* to = row_of_blocks + index * kChannels * temporal * plane + row_in_patch * patch;
      for (int channel = 0; channel < kChannels; ++channel, to += temporal * plane) {
        const Value* value_of = values + channel * kLevels;
        for (std::int64_t x = 0; x < patch; ++x) to[x] = value_of[row[x * kChannels + channel]];
        for (std::int64_t time = 1; time < temporal; ++time) std::copy_n(to, patch, to + time * plane);
      }
    }
  };
}

template RowSink planes(std::int64_t, std::int64_t, const std::uint32_t*, std::uint32_t*);
template RowSink planes(std::int64_t, std::int64_t, const std::uint16_t*, std::uint16_t*);
template RowSink patches(const PatchLayout&, const std::uint32_t*, std::uint32_t*);
template RowSink patches(const PatchLayout&, const std::uint16_t*, std::uint16_t*);

}  // namespace safeguard
