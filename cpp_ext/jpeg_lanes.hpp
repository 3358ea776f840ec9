// Lanes for jpeg_kernels_body.hpp as vectors of GCC and Clang, which become what the instruction set has. For machines
// that are little-endian.

typedef std::int32_t Lanes __attribute__((vector_size(4 * kLanes)));

inline Lanes zero() { return Lanes{}; }

template <typename Narrow>
inline Lanes load(const Narrow* from) {
  typedef Narrow Vector __attribute__((vector_size(sizeof(Narrow) * kLanes)));
  Vector narrow;
  std::memcpy(&narrow, from, sizeof narrow);
  return __builtin_convertvector(narrow, Lanes);
}

inline Lanes clipped(Lanes value) {  // to 0..255
  value = value < 0 ? 0 : value;
  return value > 255 ? 255 : value;
}

// [column][lane] → side samples of lane 0, then those of lane 1 and so on
template <int side>
inline void store_samples(const Lanes* columns, std::uint8_t* samples) {
  if constexpr (side == 8) {
    const Lanes left = columns[0] | columns[1] << 8 | columns[2] << 16 | columns[3] << 24;
    const Lanes right = columns[4] | columns[5] << 8 | columns[6] << 16 | columns[7] << 24;
    for (int lane = 0; lane < kLanes; ++lane) {
      const std::int32_t words[2] = {left[lane], right[lane]};
      std::memcpy(samples + lane * side, words, sizeof words);
    }
  } else if constexpr (side == 4) {
    const Lanes words = columns[0] | columns[1] << 8 | columns[2] << 16 | columns[3] << 24;
    std::memcpy(samples, &words, sizeof words);
  } else if constexpr (side == 2) {
    typedef std::uint16_t Words __attribute__((vector_size(2 * kLanes)));
    const Words words = __builtin_convertvector(columns[0] | columns[1] << 8, Words);
    std::memcpy(samples, &words, sizeof words);
  } else {
    typedef std::uint8_t Bytes __attribute__((vector_size(kLanes)));
    const Bytes bytes = __builtin_convertvector(columns[0], Bytes);
    std::memcpy(samples, &bytes, sizeof bytes);
  }
}
