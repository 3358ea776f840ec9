// Resizes noise with every kernel of this processor and prints the name of each with a digest of its results.
// test_neon.py compares them.
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

#include "resample.hpp"

using namespace safeguard;

namespace {

constexpr int kPictures = 400;

std::vector<std::uint8_t> resized(const Picture& picture, std::int64_t height, std::int64_t width, Filter filter,
                                  const Kernels& kernels) {
  std::vector<std::uint8_t> all;
  resample(picture, height, width, filter, kernels,
           [&](const std::uint8_t* row, std::int64_t) { all.insert(all.end(), row, row + width * kChannels); });
  return all;
}

std::uint64_t digest_of(const Kernels& kernels) {
  std::mt19937 random(1);  // its numbers are those of the standard, on every machine
  const auto below = [&](std::uint32_t limit) { return static_cast<std::int64_t>(random() % limit); };
  std::uint64_t digest = 0;
  for (int number = 0; number < kPictures; ++number) {
    const std::int64_t height = 1 + below(150), width = 1 + below(150);
    const std::int64_t resized_height = 1 + below(90), resized_width = number % 7 ? 1 + below(90) : width;
    std::vector<std::uint8_t> samples(static_cast<std::size_t>(height * width * kChannels));
    for (std::uint8_t& sample : samples) sample = random() % 2 ? 255 : 0;
    const Picture picture{samples.data(), height, width, width * kChannels, kChannels, 1};
    const Filter filter = number % 3 ? Filter::bicubic : Filter::bilinear;
    for (const std::uint8_t sample : resized(picture, resized_height, resized_width, filter, kernels))
      digest = digest * 31 + sample;
  }
  return digest;
}

}  // namespace

int main() {
  for (const Kernels& candidate : kernels())
    std::printf("%s %016llx\n", candidate.name, static_cast<unsigned long long>(digest_of(candidate)));
}
