// Which instruction sets may run here. No Python in this file: only the bindings know of it.
#pragma once

#include <string>
#include <vector>

namespace safeguard {

// Instruction sets that matter for inference and that both this CPU and its operating system support, oldest first.
//   x86    sse4.2 avx avx2 fma f16c bmi2 avx512f avx512bw avx512vl avx512_vnni avx512_bf16 avx_vnni amx_int8 amx_bf16
//   ARM64  neon dotprod i8mm bf16 sve
// Empty on other processors. On Linux a process must still ask for AMX tiles before it uses them (arch_prctl).
std::vector<std::string> cpu_features();

// Whether cpu_features() names it. Found out anew at each call, so keep the answer where it is asked often.
bool has_cpu_feature(const std::string& name);

}  // namespace safeguard
