// From the logits of a whole vocabulary to the log-probabilities of the two verdict tokens. No Python in this file.
#pragma once

#include <cstddef>

namespace safeguard {

enum class LogitType { float32, float16, bfloat16 };  // of the machine's byte order

// The logits of several prompts, wherever they lie: strides are in bytes, may be negative and need no alignment.
struct LogitTable {
  const char* first;
  LogitType type;
  std::size_t rows, vocabulary;
  std::ptrdiff_t row_stride, token_stride;
};

// log(exp(logit 0) + exp(logit 1) + …) of one row, within 1e-6 of the exact value for up to a million tokens.
//
// NaN if a logit is NaN or +inf. A logit of -inf adds nothing; -inf if all are.
// The order of summation is fixed: the result depends on the row's values alone, not on where they lie or on how many
// rows there are, and is the same bits with AVX2 and, where `portable`, without. Another compiler or architecture may
// differ in the last bits, because it may fuse a product and a sum.
double log_sum_exp(const LogitTable& table, std::size_t row, bool portable);

// (rows, 2) log-probabilities of the tokens `safe` and `unsafe` < vocabulary, NaN where log_sum_exp is.
void verdict_log_probabilities(const LogitTable& table, std::size_t safe, std::size_t unsafe, bool portable,
                               double* out);

}  // namespace safeguard
