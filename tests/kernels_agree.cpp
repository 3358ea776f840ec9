// Resizes noise and decodes JPEG files, named as arguments, with every kernel of this processor, and prints the name of
// each with a digest of its results. test_neon.py compares them.
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

#include "jpeg.hpp"
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

// 0 where a file is not decoded.
std::uint64_t digest_of(const JpegKernels& kernels, const std::vector<std::vector<std::uint8_t>>& files) {
  std::uint64_t digest = 1;
  for (const auto& file : files) {
    const std::uint8_t* const end = file.data() + file.size();
    const auto header = read_jpeg_header(file.data(), end);
    if (!header) return 0;
    for (const int scale : {2, 4, 8}) {
      const std::int64_t height = (header->height + scale - 1) / scale, width = (header->width + scale - 1) / scale;
      std::vector<std::uint8_t> rgb(static_cast<std::size_t>(height * width * kChannels));
      if (!decode_jpeg(*header, end, scale, kernels, rgb.data())) return 0;
      for (const std::uint8_t sample : rgb) digest = digest * 31 + sample;
    }
  }
  return digest;
}

void print(const char* what, const char* kernel, std::uint64_t digest) {
  std::printf("%s %s %016llx\n", what, kernel, static_cast<unsigned long long>(digest));
}

}  // namespace

int main(int count, char** arguments) {
  for (const Kernels& candidate : kernels()) print("resize", candidate.name, digest_of(candidate));
  std::vector<std::vector<std::uint8_t>> files;
  for (int index = 1; index < count; ++index) {
    std::ifstream file(arguments[index], std::ios::binary);
    files.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  for (const JpegKernels& candidate : jpeg_kernels()) print("jpeg", candidate.name, digest_of(candidate, files));
}
