// source  ITU-T T.81, annex B; Adobe Technical Note 5116, section 18 (the marker APP14)
#include "jpeg_header.hpp"

#include <cstddef>
#include <cstring>
#include <utility>

#include "jpeg_kernels.hpp"

namespace safeguard {
namespace {

constexpr int kLongestSide = 65500;  // that libjpeg takes
constexpr int kTables = 4;  // places for tables of each kind
enum Marker : std::uint8_t {
  kBaseline = 0xC0, kExtended = 0xC1, kHuffmanTables = 0xC4, kStart = 0xD8, kScan = 0xDA, kQuantization = 0xDB,
  kRestartInterval = 0xDD, kApplication0 = 0xE0, kAdobe = 0xEE, kApplication15 = 0xEF, kComment = 0xFE,
};

// A stretch of the file that is read from its front. What goes beyond its end gives zeros and is remembered.
class Segment {
 public:
  Segment(const std::uint8_t* next, const std::uint8_t* end) : next_(next), end_(end) {}
  std::size_t left() const { return static_cast<std::size_t>(end_ - next_); }
  const std::uint8_t* next() const { return next_; }
  bool broken() const { return broken_; }
  int byte() {
    if (left() > 0) return *next_++;
    broken_ = true;
    return 0;
  }
  int word() {
    const int high = byte();
    return high << 8 | byte();
  }
  Segment cut(std::size_t length) {
    if (length > left()) broken_ = true, length = 0;
    next_ += length;
    return {next_ - length, next_};
  }

 private:
  const std::uint8_t *next_, *end_;
  bool broken_ = false;
};

struct Frame {
  struct Component {
    int identifier, across, down, quantization;
  };
  int height = 0, width = 0;
  std::vector<Component> components;
};

class Reader {
 public:
  std::optional<JpegHeader> read(Segment file) {
    if (file.byte() != 0xFF || file.byte() != kStart) return {};
    for (;;) {
      if (file.byte() != 0xFF) return {};
      const int marker = file.byte();
      const int length = file.word();
      if (file.broken() || length < 2) return {};
      Segment segment = file.cut(static_cast<std::size_t>(length) - 2);
      if (file.broken()) return {};
      if (marker == kScan) return scan(segment, file.next());
      if (!take(marker, segment) || segment.broken()) return {};
    }
  }

 private:
  bool take(int marker, Segment& segment) {
    if (marker == kBaseline || marker == kExtended) return take_frame(segment);
    if (marker == kHuffmanTables) return take_codes(segment);
    if (marker == kQuantization) return take_quantization(segment);
    if (marker == kRestartInterval) return restart_interval_ = segment.word(), segment.left() == 0;
    if (marker == kAdobe) return take_adobe(segment);
    return (marker >= kApplication0 && marker <= kApplication15) || marker == kComment;
  }

  bool take_frame(Segment& segment) {
    if (!frame_.components.empty() || segment.byte() != 8) return false;
    frame_.height = segment.word(), frame_.width = segment.word();
    const int count = segment.byte();
    if (frame_.height == 0 || frame_.width == 0 || (count != 1 && count != 3)) return false;
    if (frame_.height > kLongestSide || frame_.width > kLongestSide) return false;
    for (int index = 0; index < count; ++index) {
      const int identifier = segment.byte(), sampling = segment.byte(), quantization = segment.byte();
      if (quantization >= kTables) return false;
      frame_.components.push_back({identifier, sampling >> 4, sampling & 15, quantization});
    }
    return segment.left() == 0 && samples_are_common();
  }

  bool samples_are_common() const {
    const auto& luma = frame_.components[0];
    if (frame_.components.size() == 1) return luma.across == 1 && luma.down == 1;
    for (int index = 0; index < 3; ++index) {
      const auto& component = frame_.components[index];
      if (component.identifier != index + 1) return false;  // then libjpeg may take it for RGB
      if (index > 0 && (component.across != 1 || component.down != 1)) return false;
    }
    return luma.across <= 2 && luma.across >= luma.down && luma.down >= 1;
  }

  bool take_codes(Segment& segment) {
    while (segment.left() > 0) {
      const int place = segment.byte(), kind = place >> 4, number = place & 15;
      HuffmanCode code;
      int symbols = 0;
      for (int bits = 1; bits <= 16; ++bits)
        symbols += code.counts[bits] = static_cast<std::uint8_t>(segment.byte());
      for (int index = 0; index < symbols; ++index) code.symbols.push_back(static_cast<std::uint8_t>(segment.byte()));
      if (segment.broken() || kind > 1 || number >= kTables || symbols > 256) return false;
      if (kind == 0) {
        auto table = std::make_shared<DcTable>();
        if (!table->build(code)) return false;
        dc_[number] = std::move(table);
      } else {
        auto table = std::make_shared<AcTable>();
        if (!table->build(code)) return false;
        ac_[number] = std::move(table);
      }
    }
    return true;
  }

  bool take_quantization(Segment& segment) {
    while (segment.left() > 0) {
      const int place = segment.byte();
      if (place >= kTables) return false;  // the high four bits tell 16-bit steps
      for (int index = 0; index < kBlock; ++index)
        if ((steps_[place][kZigzag.place[index]] = static_cast<std::int16_t>(segment.byte())) == 0) return false;
      has_steps_[place] = true;
    }
    return true;
  }

  bool take_adobe(Segment& segment) {
    char name[5];
    for (char& letter : name) letter = static_cast<char>(segment.byte());
    if (segment.broken() || std::memcmp(name, "Adobe", sizeof name) != 0) return false;
    for (int skipped = 0; skipped < 6; ++skipped) segment.byte();  // version and flags
    return segment.byte() == 1 && segment.left() == 0;             // YCbCr
  }

  std::optional<JpegHeader> scan(Segment& segment, const std::uint8_t* bits) {
    const int count = segment.byte();
    if (frame_.components.empty() || count != static_cast<int>(frame_.components.size())) return {};
    JpegHeader header{frame_.height, frame_.width, {}, restart_interval_, bits};
    for (const auto& component : frame_.components) {
      if (segment.byte() != component.identifier) return {};
      const int tables = segment.byte(), dc = tables >> 4, ac = tables & 15;
      if (dc >= kTables || ac >= kTables || !dc_[dc] || !ac_[ac] || !has_steps_[component.quantization]) return {};
      header.components.push_back(
          {component.across, component.down, steps_[component.quantization], dc_[dc], ac_[ac]});
    }
    const bool one_pass = segment.byte() == 0 && segment.byte() == 63 && segment.byte() == 0;
    if (!one_pass || segment.broken() || segment.left() > 0) return {};
    return header;
  }

  Frame frame_;
  std::array<std::shared_ptr<const DcTable>, kTables> dc_;
  std::array<std::shared_ptr<const AcTable>, kTables> ac_;
  std::array<std::array<std::int16_t, kBlock>, kTables> steps_{};
  std::array<bool, kTables> has_steps_{};
  int restart_interval_ = 0;
};

}  // namespace

std::optional<JpegHeader> read_jpeg_header(const std::uint8_t* data, const std::uint8_t* end) {
  return Reader().read({data, end});
}

}  // namespace safeguard
