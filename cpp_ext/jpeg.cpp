#include "jpeg.hpp"

#include <algorithm>
#include <cstring>
#include <vector>

#include "picture.hpp"
#include "sizes.hpp"

namespace safeguard {
namespace {

constexpr int kEndOfImage = 0xD9, kRestart = 0xD0;  // the first of eight markers, which take turns
constexpr std::int64_t kGroupBytes = kLanes * 6 * kMaxBlockBytes + 16;  // of kLanes MCUs of at most 6 blocks
constexpr std::int64_t kWindow = 4 * kGroupBytes;

// The bytes of a scan from marker to marker, the stuffing taken out, a window at a time.
class ScanBytes {
 public:
  ScanBytes(const std::uint8_t* next, const std::uint8_t* end)
      : next_(next), end_(end), window_(kWindow + kGroupBytes) {
    restart();
  }

  Bits bits;

  // After this, kGroupBytes can be read; behind the last byte before a marker there are zeros.
  void fill() {
    const std::int64_t left = used_ - (bits.next - window_.data());
    if (marker_ >= 0 || left >= kGroupBytes) return;
    std::memmove(window_.data(), bits.next, static_cast<std::size_t>(left));
    used_ = left;
    bits.next = window_.data();
    while (marker_ < 0 && used_ < kWindow) copy_to_next_marker();
    std::memset(&window_[used_], 0, kGroupBytes);
  }

  // Whether more was read than there is before the marker.
  bool overrun() const { return marker_ >= 0 && bits_left() < 0; }

  // Whether all was read before this marker, to the byte.
  bool at_end(int marker) const { return marker_ == marker && bits_left() >= 0 && bits_left() < 8; }

  // Goes on behind the marker.
  void restart() {
    used_ = 0, marker_ = -1;
    bits = {window_.data(), 0, 0};
  }

 private:
  std::int64_t bits_left() const { return (used_ - (bits.next - window_.data())) * 8 + bits.count; }

  void copy_to_next_marker() {
    const std::int64_t most = std::min(end_ - next_, static_cast<std::ptrdiff_t>(kWindow - used_));
    const void* found = most > 0 ? std::memchr(next_, 0xFF, static_cast<std::size_t>(most)) : nullptr;
    const std::int64_t length = found ? static_cast<const std::uint8_t*>(found) - next_ : most;
    std::memcpy(&window_[used_], next_, static_cast<std::size_t>(length));
    used_ += length, next_ += length;
    if (end_ - next_ < 2) {
      marker_ = 0;  // the file ends
    } else if (found) {
      if (next_[1] == 0) window_[used_++] = 0xFF;
      else marker_ = next_[1];
      next_ += 2;
    }
  }

  const std::uint8_t *next_, *end_;
  std::vector<std::uint8_t> window_;
  std::int64_t used_ = 0;  // bytes of the window
  int marker_ = -1;        // the one behind them; -1 where the window ends before the next
};

// The samples of one component in a row of MCUs.
struct Band {
  int side;              // of what becomes of a block
  std::int64_t row_step;
  std::vector<std::uint8_t> samples;
};

class Decoder {
 public:
  Decoder(const JpegHeader& header, const std::uint8_t* end, int scale, const JpegKernels& kernels)
      : header_(header), kernels_(kernels), side_(8 / scale), bytes_(header.scan, end),
        across_(header.components[0].across), down_(header.components[0].down),
        width_((header.width + scale - 1) / scale), height_((header.height + scale - 1) / scale),
        mcus_((header.width + 8 * across_ - 1) / (8 * across_)), left_(header.restart_interval) {
    std::size_t blocks = 0;
    for (const JpegComponent& component : header.components) blocks += component.across * component.down;
    coefficients_.resize(blocks * kGroupSize);
    std::int16_t* groups = coefficients_.data();
    const std::int64_t groups_across = (mcus_ + kLanes - 1) / kLanes;
    for (const JpegComponent& component : header.components) {
      scan_.components[scan_.count++] = {component.dc.get(), component.ac.get(), component.across, component.down, 0,
                                         groups};
      groups += component.across * component.down * kGroupSize;
      // libjpeg gives halved chroma twice the scale rather than enlarging it, where it is halved both ways.
      const int side = side_ * (across_ == 2 && down_ == 2 && component.across == 1 ? 2 : 1);
      const std::int64_t row_step = groups_across * kLanes * component.across * side;
      bands_.push_back({side, row_step, {}});
      bands_.back().samples.resize(product(row_step, component.down * side));
    }
    if (across_ == 2 && down_ == 1)
      for (auto& row : enlarged_) row.resize(product(2, bands_[1].row_step));
    if (scan_.count == 1) no_chroma_.assign(static_cast<std::size_t>(bands_[0].row_step), 128);
  }

  bool run(std::uint8_t* rgb) {
    const std::int64_t rows = down_ * side_;
    for (std::int64_t y = 0; y < height_; y += rows) {
      if (!decode_band()) return false;
      for (std::int64_t row = 0; row < std::min(rows, height_ - y); ++row, rgb += width_ * kChannels)
        write_row(row, rgb);
    }
    return bytes_.at_end(kEndOfImage);
  }

 private:
  // The next row of MCUs.
  bool decode_band() {
    for (std::int64_t first = 0; first < mcus_; first += kLanes) {
      std::fill(coefficients_.begin(), coefficients_.end(), std::int16_t{0});
      if (!read_group(static_cast<int>(std::min<std::int64_t>(kLanes, mcus_ - first)))) return false;
      for (int index = 0; index < scan_.count; ++index)
        if (!transform_group(index, first)) return false;
    }
    return true;
  }

  bool read_group(int count) {
    bytes_.fill();
    for (int first = 0; first < count;) {
      if (header_.restart_interval > 0 && left_ == 0 && !restart()) return false;
      const int last = header_.restart_interval > 0
                           ? static_cast<int>(std::min<std::int64_t>(count, first + left_)) : count;
      if (!kernels_.read_mcus(scan_, bytes_.bits, first, last) || bytes_.overrun()) return false;
      left_ -= last - first;
      first = last;
    }
    return true;
  }

  bool restart() {
    if (!bytes_.at_end(kRestart + restarts_ % 8)) return false;
    ++restarts_;
    left_ = header_.restart_interval;
    for (ScanComponent& component : scan_.components) component.prediction = 0;
    bytes_.restart();
    bytes_.fill();
    return true;
  }

  bool transform_group(int index, std::int64_t first) {
    const ScanComponent& component = scan_.components[index];
    Band& band = bands_[index];
    const int log_side = band.side == 8 ? 3 : band.side / 2;
    const std::int16_t* group = component.groups;
    for (int row = 0; row < component.down; ++row)
      for (int column = 0; column < component.across; ++column, group += kGroupSize) {
        std::uint8_t* const samples = &band.samples[row * band.side * band.row_step +
                                                    (first * component.across + column * kLanes) * band.side];
        if (!kernels_.transform[log_side](group, header_.components[index].quantization.data(), samples,
                                          band.row_step)) return false;
      }
    return true;
  }

  void write_row(std::int64_t row, std::uint8_t* rgb) {
    const std::uint8_t* chroma[2];
    for (int index = 0; index < 2; ++index) {
      if (scan_.count == 1) {
        chroma[index] = no_chroma_.data();
        continue;
      }
      const Band& band = bands_[index + 1];
      chroma[index] = &band.samples[row * band.row_step];
      if (enlarged_[index].empty()) continue;
      enlarge(chroma[index], enlarged_[index].data());
      chroma[index] = enlarged_[index].data();
    }
    kernels_.to_rgb(&bands_[0].samples[row * bands_[0].row_step], chroma[0], chroma[1], rgb, width_);
  }

  // Twice as many samples: 3/4 of the nearer and 1/4 of the further one, halves rounded down and up in turn; at 1/8
  // and up to two samples each one twice. So does libjpeg ("fancy upsampling", jdsample.c).
  void enlarge(const std::uint8_t* from, std::uint8_t* to) const {
    const std::int64_t count = (width_ + 1) / 2;
    const bool plain = side_ == 1 || count <= 2;
    for (std::int64_t x = 0; x < count; ++x) {
      const int own = from[x], before = from[x > 0 ? x - 1 : 0], behind = from[x + 1 < count ? x + 1 : x];
      to[2 * x] = static_cast<std::uint8_t>(plain ? own : (3 * own + before + 1) >> 2);
      to[2 * x + 1] = static_cast<std::uint8_t>(plain ? own : (3 * own + behind + 2) >> 2);
    }
  }

  const JpegHeader& header_;
  const JpegKernels& kernels_;
  const int side_;  // of what becomes of a block of luma
  ScanBytes bytes_;
  const int across_, down_;  // blocks of luma in an MCU
  const std::int64_t width_, height_;  // pixels that come out
  const std::int64_t mcus_;            // in a row
  std::int64_t left_, restarts_ = 0;   // MCUs to the next restart marker; such markers passed
  Scan scan_{};
  std::vector<std::int16_t> coefficients_;  // of kLanes MCUs
  std::vector<Band> bands_;
  std::vector<std::uint8_t> enlarged_[2], no_chroma_;  // a row each
};

}  // namespace

bool decode_jpeg(const JpegHeader& header, const std::uint8_t* end, int scale, const JpegKernels& kernels,
                 std::uint8_t* rgb) {
  return Decoder(header, end, scale, kernels).run(rgb);
}

}  // namespace safeguard
