#include "kernels.hpp"

namespace safeguard {

const std::vector<Kernels>& kernels() {
  static const std::vector<Kernels> usable = [] {
    std::vector<Kernels> found;
    for (const Kernels* candidate : {avx2_kernels(), neon_kernels(), &kPortableKernels})
      if (candidate) found.push_back(*candidate);
    return found;
  }();
  return usable;
}

}  // namespace safeguard
