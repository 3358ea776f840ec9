// Huffman codes of a JPEG scan as tables to look bits up in, and the reader of those bits.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace safeguard {

constexpr int kBlock = 64;                       // coefficients
constexpr int kDcBits = 9, kAcBits = 10;         // looked up at once; two tables of the latter take 16 KB of cache
constexpr int kMaxDcSize = 11, kMaxAcSize = 10;  // bits of a value where samples have 8

// Zigzag order → place in rows of 8. All behind the 64th, where a broken block goes on, has one spare place.
struct Zigzag {
  std::uint8_t place[256];

  constexpr Zigzag() : place() {
    int row = 0, column = 0;
    for (int index = 0; index < 256; ++index) {
      place[index] = static_cast<std::uint8_t>(index < kBlock ? row * 8 + column : kBlock);
      const bool up = (row + column) % 2 == 0;
      int& away = up ? column : row;
      int& back = up ? row : column;
      if (away == 7) ++back;
      else if (++away, back > 0) --back;
    }
  }
};
inline constexpr Zigzag kZigzag;

// What follows in the scan, the stuffing taken out.
struct Bits {
  const std::uint8_t* next;  // 8 bytes and more are readable
  std::uint64_t ahead;       // the first bits at the top
  int count;                 // of them that count

  // Then `count` is at least 56.
  void refill() {
    ahead |= bytes_of(next) >> count;
    next += (63 - count) >> 3;
    count |= 56;
  }

  void drop(int bits) {
    ahead <<= bits;
    count -= bits;
  }

  // A value of `size` bits, 0 to 16, as JPEG has it: those that begin with 0 are negative.
  int value(int size) const {
    const auto sign = static_cast<std::int64_t>(~ahead) >> 63;  // -1 for a negative one
    const auto offset = sign & ((std::int64_t{1} << size) - 1);
    return static_cast<int>(static_cast<std::int64_t>(ahead >> 1 >> (63 - size)) - offset);
  }

 private:
  static std::uint64_t bytes_of(const std::uint8_t* b) {  // big-endian; compilers know this for one instruction
    return std::uint64_t{b[0]} << 56 | std::uint64_t{b[1]} << 48 | std::uint64_t{b[2]} << 40 |
           std::uint64_t{b[3]} << 32 | std::uint64_t{b[4]} << 24 | std::uint64_t{b[5]} << 16 |
           std::uint64_t{b[6]} << 8 | std::uint64_t{b[7]};
  }
};

// A Huffman code as a file defines it.
struct HuffmanCode {
  std::array<std::uint8_t, 17> counts{};  // of codes by length, 1 to 16 bits
  std::vector<std::uint8_t> symbols;      // in the order of their codes
};

// Codes of any length.
class LongCodes {
 public:
  struct Found {
    int bits, symbol;  // bits is 0 where no code is like this
  };

  // False if the counts are of no code.
  bool build(const HuffmanCode& code);

  Found find(std::uint64_t ahead) const {
    const auto front = static_cast<std::uint32_t>(ahead >> 48);
    for (int bits = 1; bits <= 16; ++bits)
      if (front < limits_[bits]) return {bits, symbols_[offsets_[bits] + static_cast<int>(front >> (16 - bits))]};
    return {0, 0};
  }

 private:
  std::array<std::uint32_t, 17> limits_{};  // above all 16 bits that begin with a code of up to so many bits
  std::array<int, 17> offsets_{};           // from a code to the place of its symbol
  std::vector<std::uint8_t> symbols_;
};

// Of the first coefficient of a block, as the difference from the one before.
struct DcTable {
  struct Entry {
    std::uint8_t bits, size;  // of the code and of the value behind it; bits is 0 where the code is longer than kDcBits
  };
  std::array<Entry, 1 << kDcBits> entries;
  LongCodes codes;

  // False if this is no code for differences.
  bool build(const HuffmanCode& code);
};

// Of the other 63: pairs of a run of zeros and a value. An entry stands for all that kAcBits bits hold of up to two
// pairs with their values, so a block takes few steps, each of which depends on the one before.
struct AcTable {
  static constexpr int kEnd = 128;   // step: the rest of the block is zeros
  static constexpr int kOther = 64;  // step: not in the table

  // In one word, as loading the parts one by one takes longer.
  struct Entry {
    std::uint64_t word;

    int bits() const { return static_cast<int>(word & 63); }              // of all that the entry stands for
    int first_bits() const { return static_cast<int>(word >> 8 & 63); }   // of the first pair alone
    int step() const { return static_cast<int>(word >> 16 & 255); }       // places in zigzag order to go on
    int first_step() const { return static_cast<int>(word >> 24 & 255); }
    std::int16_t first() const { return static_cast<std::int16_t>(word >> 32); }   // value
    std::int16_t second() const { return static_cast<std::int16_t>(word >> 48); }  // stands at step(); may be first()
  };
  // Where step() is kOther and bits() is not 0, a code of so many bits was found, and first() is its symbol.
  std::array<Entry, 1 << kAcBits> entries;
  LongCodes codes;

  // False if this is no code for pairs.
  bool build(const HuffmanCode& code);
};

}  // namespace safeguard
