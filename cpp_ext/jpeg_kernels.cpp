#include "jpeg_kernels.hpp"

namespace safeguard {

const std::vector<JpegKernels>& jpeg_kernels() {
  static const std::vector<JpegKernels> usable = [] {
    std::vector<JpegKernels> found;
    for (const JpegKernels* candidate : {avx2_jpeg_kernels(), neon_jpeg_kernels(), portable_jpeg_kernels()})
      if (candidate) found.push_back(*candidate);
    return found;
  }();
  return usable;
}

}  // namespace safeguard
