// The loops themselves, compiled once for each instruction set: the file that includes this one has defined Lanes, a
// vector of kLanes 32-bit integers, in a namespace of its own, with the functions for them that are used here.
//
// The inverse DCT is the one of Loeffler, Ligtenberg and Moschytz (ICASSP 1989) in fixed point, and for 4 and 2 pixels
// that of its even and odd parts, which leaves the fine coefficients out. Where it rounds, libjpeg-turbo does (method
// "islow", jidctint.c and jidctred.c), whose vector code keeps 16 bits where these keep 32: values that could tell the
// two apart are refused.

constexpr int kConstantBits = 13, kPassBits = 2;  // of fixed point; pass 1 leaves two bits behind the point
constexpr int kLargest = 1 << 11;                 // of a coefficient; what 8-bit samples give is below 1,200
constexpr int kLargestBetween = 1 << 14;          // after pass 1; what 8-bit samples give is below 5,000. With these
                                                  // bounds no sum of either pass goes beyond 32 bits

constexpr int fixed(double x) { return static_cast<int>(x * (1 << kConstantBits) + (x < 0 ? -0.5 : 0.5)); }

#ifdef __GNUC__
#define SAFEGUARD_INLINE inline __attribute__((always_inline))
#else
#define SAFEGUARD_INLINE inline
#endif

// One block into its lane of a group.
SAFEGUARD_INLINE bool read_block(Bits& bits, ScanComponent& component, std::int16_t* lane) {
  bits.refill();
  const DcTable::Entry dc = component.dc->entries[bits.ahead >> (64 - kDcBits)];
  int code_bits = dc.bits, size = dc.size;
  if (code_bits == 0) {
    const auto [found_bits, symbol] = component.dc->codes.find(bits.ahead);
    if (found_bits == 0) return false;
    code_bits = found_bits, size = symbol;
  }
  bits.drop(code_bits);
  component.prediction += bits.value(size);
  bits.drop(size);
  if (component.prediction <= -kLargest || component.prediction >= kLargest) return false;
  lane[0] = static_cast<std::int16_t>(component.prediction);

  const AcTable::Entry* const entries = component.ac->entries.data();
  int last = 0;  // place in zigzag order
  for (;;) {
    std::uint64_t index;
    AcTable::Entry entry;
    const auto step = [&] {
      index = bits.ahead >> (64 - kAcBits);
      entry = entries[index];
      bits.drop(entry.bits());
      lane[kZigzag.place[last + entry.step()] * kLanes] = entry.second();
      lane[kZigzag.place[last + entry.first_step()] * kLanes] = entry.first();
      last += entry.step();
      return last < kBlock - 1;
    };
    do bits.refill();
    while (step() && step() && step() && step());

    const int before = last - entry.step(), first = before + entry.first_step();
    if (entry.first_step() == AcTable::kEnd) break;
    if (entry.first_step() == AcTable::kOther) {
      int symbol = entry.first();
      bits.refill();
      if (entry.bits() == 0) {
        const auto found = component.ac->codes.find(bits.ahead);
        if (found.bits == 0) return false;
        bits.drop(found.bits);
        symbol = found.symbol;
      }
      if (symbol == 0) break;
      last = before + (symbol >> 4) + 1;
      if (last >= kBlock) return false;
      lane[kZigzag.place[last] * kLanes] = static_cast<std::int16_t>(bits.value(symbol & 15));
      bits.drop(symbol & 15);
      if (last == kBlock - 1) break;
      continue;
    }
    if (first >= kBlock) return false;
    if (first == kBlock - 1) {  // where the entry has a second pair, it belongs to the next block
      const int back = entry.bits() - entry.first_bits();
      if (back) bits.ahead = bits.ahead >> back | index >> (kAcBits - entry.bits()) << (64 - back);
      bits.count += back;
      break;
    }
    if (last != kBlock - 1 && entry.step() < AcTable::kEnd) return false;
    break;
  }
  return true;
}

bool read_mcus(Scan& scan, Bits& shared, int first, int last) {
  Bits bits = shared;  // in registers
  for (int mcu = first; mcu < last; ++mcu)
    for (int index = 0; index < scan.count; ++index) {
      ScanComponent& component = scan.components[index];
      for (int row = 0; row < component.down; ++row)
        for (int place = mcu * component.across; place < (mcu + 1) * component.across; ++place) {
          std::int16_t* const group = component.groups + (row * component.across + place / kLanes) * kGroupSize;
          if (!read_block(bits, component, group + place % kLanes)) return false;
        }
    }
  shared = bits;
  return true;
}

inline Lanes outside(int limit, Lanes value) {  // not zero where the value is not in [-limit, limit)
  return (value + limit) & -(2 * limit);
}

// Pass 1 or 2 of a block in one dimension: eight coefficients → side values, less the bits of fixed point `removed`.
template <int side>
struct Dct;

template <>
struct Dct<8> {
  static constexpr int kRemovedFirst = kConstantBits - kPassBits, kRemovedThen = kConstantBits + kPassBits + 3;
  static constexpr bool reads(int) { return true; }

  static void run(const Lanes* in, Lanes* out, int removed) {
    const Lanes turned = (in[2] + in[6]) * fixed(0.541196100);
    const Lanes low = turned - in[6] * fixed(1.847759065), high = turned + in[2] * fixed(0.765366865);
    const Lanes sum = (in[0] + in[4]) * (1 << kConstantBits), difference = (in[0] - in[4]) * (1 << kConstantBits);
    const Lanes even[4] = {sum + high, difference + low, difference - low, sum - high};

    const Lanes both = (in[7] + in[3] + in[5] + in[1]) * fixed(1.175875602);
    const Lanes a = (in[7] + in[1]) * fixed(-0.899976223), b = (in[5] + in[3]) * fixed(-2.562915447);
    const Lanes c = (in[7] + in[3]) * fixed(-1.961570560) + both, d = (in[5] + in[1]) * fixed(-0.390180644) + both;
    const Lanes odd[4] = {in[1] * fixed(1.501321110) + a + d, in[3] * fixed(3.072711026) + b + c,
                          in[5] * fixed(2.053119869) + b + d, in[7] * fixed(0.298631336) + a + c};
    const int half = 1 << (removed - 1);
    for (int i = 0; i < 4; ++i) {
      out[i] = (even[i] + odd[i] + half) >> removed;
      out[7 - i] = (even[i] - odd[i] + half) >> removed;
    }
  }
};

template <>
struct Dct<4> {
  static constexpr int kRemovedFirst = kConstantBits - kPassBits + 1, kRemovedThen = kConstantBits + kPassBits + 4;
  static constexpr bool reads(int index) { return index != 4; }

  static void run(const Lanes* in, Lanes* out, int removed) {
    const Lanes mean = in[0] * (2 << kConstantBits);
    const Lanes turned = in[2] * fixed(1.847759065) + in[6] * fixed(-0.765366865);
    const Lanes outer = in[7] * fixed(-0.509795579) + in[5] * fixed(-0.601344887) + in[3] * fixed(0.899976223) +
                        in[1] * fixed(2.562915447);
    const Lanes inner = in[7] * fixed(-0.211164243) + in[5] * fixed(1.451774981) + in[3] * fixed(-2.172734803) +
                        in[1] * fixed(1.061594337);
    const int half = 1 << (removed - 1);
    out[0] = (mean + turned + outer + half) >> removed;
    out[1] = (mean - turned + inner + half) >> removed;
    out[2] = (mean - turned - inner + half) >> removed;
    out[3] = (mean + turned - outer + half) >> removed;
  }
};

template <>
struct Dct<2> {
  static constexpr int kRemovedFirst = kConstantBits - kPassBits + 2, kRemovedThen = kConstantBits + kPassBits + 5;
  static constexpr bool reads(int index) { return index == 0 || index % 2 == 1; }

  static void run(const Lanes* in, Lanes* out, int removed) {
    const Lanes mean = in[0] * (4 << kConstantBits);
    const Lanes turned = in[7] * fixed(-0.720959822) + in[5] * fixed(0.850430095) + in[3] * fixed(-1.272758580) +
                         in[1] * fixed(3.624509785);
    const int half = 1 << (removed - 1);
    out[0] = (mean + turned + half) >> removed;
    out[1] = (mean - turned + half) >> removed;
  }
};

template <int side>
bool transform(const std::int16_t* group, const std::int16_t* quantization, std::uint8_t* samples,
               std::ptrdiff_t row_step) {
  Lanes between[side][8], beyond = zero();
  for (int column = 0; column < 8; ++column) {
    if (!Dct<side>::reads(column)) continue;
    Lanes in[8], out[side], wrong = zero();
    for (int row = 0; row < 8; ++row) {
      if (!Dct<side>::reads(row)) continue;
      in[row] = load(group + (row * 8 + column) * kLanes) * static_cast<int>(quantization[row * 8 + column]);
      wrong = wrong | outside(kLargest, in[row]);
    }
    if (any(wrong)) return false;
    Dct<side>::run(in, out, Dct<side>::kRemovedFirst);
    for (int row = 0; row < side; ++row) {
      between[row][column] = out[row];
      beyond = beyond | outside(kLargestBetween, out[row]);
    }
  }
  if (any(beyond)) return false;
  for (int row = 0; row < side; ++row) {
    Lanes out[side];
    Dct<side>::run(between[row], out, Dct<side>::kRemovedThen);
    for (int column = 0; column < side; ++column) out[column] = clipped(out[column] + 128);
    store_samples<side>(out, samples + row * row_step);
  }
  return true;
}

template <>
bool transform<1>(const std::int16_t* group, const std::int16_t* quantization, std::uint8_t* samples, std::ptrdiff_t) {
  const Lanes mean = load(group) * static_cast<int>(quantization[0]);
  if (any(outside(kLargest, mean))) return false;
  const Lanes out[1] = {clipped(((mean + 4) >> 3) + 128)};
  store_samples<1>(out, samples);
  return true;
}

// source  JFIF 1.02, in fixed point as libjpeg has it
void to_rgb(const std::uint8_t* y, const std::uint8_t* cb, const std::uint8_t* cr, std::uint8_t* rgb,
            std::int64_t width) {
  constexpr int places = 16, half = 1 << (places - 1);
  const auto scaled = [](double x) { return static_cast<int>(x * (1 << places) + 0.5); };
  for (std::int64_t x = 0; x < width; x += kLanes) {
    const Lanes level = load(y + x), blue = load(cb + x) - 128, red = load(cr + x) - 128;
    const Lanes r = clipped(level + ((red * scaled(1.402) + half) >> places));
    const Lanes g = clipped(level + ((half - blue * scaled(0.34414) - red * scaled(0.71414)) >> places));
    const Lanes b = clipped(level + ((blue * scaled(1.772) + half) >> places));
    if (width - x >= kLanes + 2) {
      store_rgb(r, g, b, rgb + x * 3);  // and up to four bytes of the next pixels, written later
    } else {
      std::uint8_t last[kLanes * 3 + 4];
      store_rgb(r, g, b, last);
      std::memcpy(rgb + x * 3, last, static_cast<std::size_t>(width - x) * 3);
    }
  }
}

constexpr JpegKernels kernels_named(const char* name) {
  return {name, read_mcus, {transform<1>, transform<2>, transform<4>, transform<8>}, to_rgb};
}
