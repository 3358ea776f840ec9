// Sources: Intel SDM vol. 2A, CPUID, and vol. 1 ch. 13, XSAVE; Linux Documentation/arch/arm64/elf_hwcaps.rst;
// Apple, Determining instruction set characteristics (sysctl hw.optional.arm.*).
#include "cpu_features.hpp"

#include <algorithm>
#include <cstdint>

#if defined(__x86_64__) || defined(_M_X64) || defined(__i386__) || defined(_M_IX86)
#define SAFEGUARD_X86
#ifdef _MSC_VER
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#elif defined(__aarch64__) || defined(_M_ARM64)
#define SAFEGUARD_ARM64
#if defined(__linux__)
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif
#endif

namespace safeguard {
namespace {

struct Feature {
  const char* name;
  bool usable;
};

#ifdef SAFEGUARD_X86

struct Registers {
  std::uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

// Zeros where the CPU has no such leaf or subleaf.
Registers cpuid(std::uint32_t leaf, std::uint32_t subleaf) {
  Registers r;
#ifdef _MSC_VER
  int highest[4], out[4];
  __cpuid(highest, 0);
  if (static_cast<std::uint32_t>(highest[0]) < leaf) return r;
  __cpuidex(out, static_cast<int>(leaf), static_cast<int>(subleaf));
  r.eax = out[0], r.ebx = out[1], r.ecx = out[2], r.edx = out[3];
#else
  __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);
#endif
  return r;
}

// XCR0: which register files the operating system saves when it switches threads.
std::uint64_t saved_by_os() {
#ifdef _MSC_VER
  return _xgetbv(0);
#else
  std::uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<std::uint64_t>(high) << 32 | low;
#endif
}

std::vector<Feature> features() {
  const auto bit = [](std::uint32_t word, int index) { return (word >> index & 1) != 0; };
  const Registers basic = cpuid(1, 0);
  const Registers more = cpuid(7, 0);
  const Registers newer = more.eax >= 1 ? cpuid(7, 1) : Registers{};  // leaf 7 says in eax how many subleaves it has
  const std::uint64_t saved = bit(basic.ecx, 27) ? saved_by_os() : 0;  // xgetbv is illegal without OSXSAVE, bit 27
  const auto saves = [saved](std::uint64_t mask) { return (saved & mask) == mask; };
  const bool ymm = saves(0x6);                  // bits 1 and 2: xmm, ymm
  const bool zmm = ymm && saves(0xe0);          // bits 5 to 7: masks, upper zmm, zmm16 to zmm31
  const bool tiles = saves(0x60000);            // bits 17 and 18: tile configuration and data
  return {
      {"sse4.2", bit(basic.ecx, 20)},
      {"avx", ymm && bit(basic.ecx, 28)},
      {"avx2", ymm && bit(more.ebx, 5)},
      {"bmi2", bit(more.ebx, 8)},
      {"fma", ymm && bit(basic.ecx, 12)},
      {"f16c", ymm && bit(basic.ecx, 29)},
      {"avx512f", zmm && bit(more.ebx, 16)},
      {"avx512bw", zmm && bit(more.ebx, 30)},
      {"avx512vl", zmm && bit(more.ebx, 31)},
      {"avx512_vnni", zmm && bit(more.ecx, 11)},
      {"avx512_bf16", zmm && bit(newer.eax, 5)},
      {"avx_vnni", ymm && bit(newer.eax, 4)},
      {"amx_int8", tiles && bit(more.edx, 25)},
      {"amx_bf16", tiles && bit(more.edx, 22)},
  };
}

#elif defined(SAFEGUARD_ARM64) && defined(__linux__)

std::vector<Feature> features() {
  const unsigned long first = getauxval(AT_HWCAP), second = getauxval(AT_HWCAP2);
  return {
      {"neon", (first >> 1 & 1) != 0},      // HWCAP_ASIMD
      {"dotprod", (first >> 20 & 1) != 0},  // HWCAP_ASIMDDP
      {"i8mm", (second >> 13 & 1) != 0},    // HWCAP2_I8MM
      {"bf16", (second >> 14 & 1) != 0},    // HWCAP2_BF16
      {"sve", (first >> 22 & 1) != 0},      // HWCAP_SVE
  };
}

#elif defined(SAFEGUARD_ARM64) && defined(__APPLE__)

std::vector<Feature> features() {
  const auto has = [](const char* name) {
    int value = 0;
    std::size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value != 0;
  };
  return {
      {"neon", true},  // part of every ARM64 Mac
      {"dotprod", has("hw.optional.arm.FEAT_DotProd")},
      {"i8mm", has("hw.optional.arm.FEAT_I8MM")},
      {"bf16", has("hw.optional.arm.FEAT_BF16")},
  };
}

#elif defined(SAFEGUARD_ARM64)

std::vector<Feature> features() { return {{"neon", true}}; }  // the ABI of ARM64 demands it; the rest is not asked for

#else

std::vector<Feature> features() { return {}; }

#endif

}  // namespace

std::vector<std::string> cpu_features() {
  std::vector<std::string> names;
  for (const Feature& feature : features())
    if (feature.usable) names.emplace_back(feature.name);
  return names;
}

bool has_cpu_feature(const std::string& name) {
  const std::vector<std::string> names = cpu_features();
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace safeguard
