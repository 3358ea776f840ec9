#include "jpeg_codes.hpp"

namespace safeguard {
namespace {

// Of the bits that begin with those of `index`, `length` in all.
Bits bits_of(int index, int length) {
  return {nullptr, static_cast<std::uint64_t>(index) << (64 - length), length};
}

struct Pair {
  int value, bits, step;
};

AcTable::Entry entry_of(const Pair& first, const Pair& last, int bits, int step) {
  const auto value = [](int number) { return static_cast<std::uint64_t>(static_cast<std::uint16_t>(number)); };
  return {value(bits) | value(first.bits) << 8 | value(step) << 16 | value(first.step) << 24 |
          value(first.value) << 32 | value(last.value) << 48};
}

// The pair that the first `length` bits of index begin with.
Pair pair_at(const LongCodes& codes, int index, int length) {
  Bits bits = bits_of(index, length);
  const auto [code_bits, symbol] = codes.find(bits.ahead);
  if (code_bits == 0 || code_bits > length) return {0, 0, AcTable::kOther};
  const int run = symbol >> 4, size = symbol & 15;
  if (size == 0) return {0, code_bits, run == 15 ? 16 : AcTable::kEnd};
  if (code_bits + size > length) return {symbol, code_bits, AcTable::kOther};
  bits.drop(code_bits);
  return {bits.value(size), code_bits + size, run + 1};
}

}  // namespace

bool LongCodes::build(const HuffmanCode& code) {
  std::uint32_t next = 0;
  int place = 0;
  for (int bits = 1; bits <= 16; ++bits) {
    offsets_[bits] = place - static_cast<int>(next);
    next += code.counts[bits], place += code.counts[bits];
    if (code.counts[bits] > 0 && next >= 1u << bits) return false;  // a code of nothing but ones is none, says T.81
    limits_[bits] = next << (16 - bits);
    next <<= 1;
  }
  symbols_ = code.symbols;
  return place == static_cast<int>(symbols_.size());
}

bool DcTable::build(const HuffmanCode& code) {
  for (const std::uint8_t size : code.symbols)
    if (size > kMaxDcSize) return false;
  if (!codes.build(code)) return false;
  for (int index = 0; index < 1 << kDcBits; ++index) {
    const auto [bits, size] = codes.find(bits_of(index, kDcBits).ahead);
    const bool fits = bits <= kDcBits;
    entries[index] = {static_cast<std::uint8_t>(fits ? bits : 0), static_cast<std::uint8_t>(size)};
  }
  return true;
}

bool AcTable::build(const HuffmanCode& code) {
  for (const std::uint8_t symbol : code.symbols) {
    const int run = symbol >> 4, size = symbol & 15;
    if (size > kMaxAcSize || (size == 0 && run != 0 && run != 15)) return false;
  }
  if (!codes.build(code)) return false;
  for (int index = 0; index < 1 << kAcBits; ++index) {
    const Pair first = pair_at(codes, index, kAcBits);
    const int left = kAcBits - first.bits;
    const Pair second = first.step < kOther && left > 0 ? pair_at(codes, index & ((1 << left) - 1), left)
                                                         : Pair{0, 0, kOther};
    entries[index] = second.step == kOther
                         ? entry_of(first, first, first.bits, first.step)
                         : entry_of(first, second, first.bits + second.bits, first.step + second.step);
  }
  return true;
}

}  // namespace safeguard
