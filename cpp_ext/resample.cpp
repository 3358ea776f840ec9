#include "resample.hpp"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "sizes.hpp"

namespace safeguard {
namespace {

// Rows of packed RGB, made when they are asked for.
class Rows {
 public:
  virtual ~Rows() = default;
  // Rows first to first + count - 1, valid until the next call. `first` never goes back.
  virtual void get(std::int64_t first, std::int64_t count, const std::uint8_t** rows) = 0;
};

// The last `capacity` rows that were made; a newer one takes the place of the oldest.
class Ring {
 public:
  Ring(std::int64_t capacity, std::int64_t bytes)
      : capacity_(capacity), step_(bytes + kRowPadding), memory_(product(capacity, step_)) {}
  std::uint8_t* row(std::int64_t index) { return &memory_[index % capacity_ * step_]; }

 private:
  std::int64_t capacity_, step_;
  std::vector<std::uint8_t> memory_;
};

// The picture itself. Rows that lie packed in memory are handed out where they are, others are packed one by one.
class SourceRows : public Rows {
 public:
  // padded: kRowPadding bytes behind a row must be readable. At most `window` rows are asked for at a time.
  SourceRows(const Picture& picture, bool padded, std::int64_t window)
      : picture_(picture), padded_(padded), packed_(picture.channel_step == 1 && picture.pixel_step == kChannels),
        ring_(window, picture.width * kChannels) {}

  void get(std::int64_t first, std::int64_t count, const std::uint8_t** rows) override {
    for (next_ = std::max(next_, first); next_ < first + count; ++next_)
      if (!in_place(next_)) pack(at(next_), ring_.row(next_));
    for (std::int64_t row = first; row < first + count; ++row) *rows++ = in_place(row) ? at(row) : ring_.row(row);
  }

 private:
  const std::uint8_t* at(std::int64_t row) const { return picture_.data + row * picture_.row_step; }

  // The bytes behind a row are the picture's own where another row begins further on.
  bool in_place(std::int64_t row) const {
    if (!packed_ || !padded_) return packed_;
    return picture_.row_step >= 0 ? picture_.row_step >= kRowPadding && row + 1 < picture_.height
                                  : picture_.row_step <= -kRowPadding && row > 0;
  }

  void pack(const std::uint8_t* from, std::uint8_t* to) const {
    const auto [pixel_step, channel_step] = std::pair(picture_.pixel_step, picture_.channel_step);
    for (std::int64_t x = 0; x < picture_.width; ++x, from += pixel_step, to += kChannels)
      to[0] = from[0], to[1] = from[channel_step], to[2] = from[2 * channel_step];
  }

  const Picture& picture_;
  bool padded_, packed_;
  Ring ring_;
  std::int64_t next_ = 0;
};

class HorizontalRows : public Rows {
 public:
  // Of `height` rows of input; at most `window` are asked for at a time.
  HorizontalRows(std::unique_ptr<Rows> input, std::int64_t height, Taps taps, const Kernels& kernels,
                 std::int64_t window)
      : input_(std::move(input)), height_(height), taps_(std::move(taps)), kernels_(kernels),
        ring_(window + kRowsAtOnce - 1, taps_.length * kChannels) {}

  void get(std::int64_t first, std::int64_t count, const std::uint8_t** rows) override {
    for (next_ = std::max(next_, first); next_ < first + count; next_ += kRowsAtOnce) make();
    for (std::int64_t index = 0; index < count; ++index) rows[index] = ring_.row(first + index);
  }

 private:
  // The next four rows; where fewer are left, the last one again and again.
  void make() {
    const std::int64_t count = std::min<std::int64_t>(kRowsAtOnce, height_ - next_);
    const std::uint8_t* from[kRowsAtOnce];
    std::uint8_t* to[kRowsAtOnce];
    input_->get(next_, count, from);
    for (std::int64_t index = 0; index < kRowsAtOnce; ++index) {
      from[index] = from[std::min(index, count - 1)];
      to[index] = ring_.row(next_ + std::min(index, count - 1));
    }
    kernels_.horizontal(from, to, taps_);
  }

  std::unique_ptr<Rows> input_;
  std::int64_t height_;
  Taps taps_;
  const Kernels& kernels_;
  Ring ring_;
  std::int64_t next_ = 0;
};

class VerticalRows : public Rows {
 public:
  // Of rows of `bytes` bytes; at most `window` are asked for at a time.
  VerticalRows(std::unique_ptr<Rows> input, std::int64_t bytes, Taps taps, const Kernels& kernels, std::int64_t window)
      : input_(std::move(input)), bytes_(bytes), taps_(std::move(taps)), kernels_(kernels), ring_(window, bytes),
        from_(product(taps_.width, 1)) {}

  void get(std::int64_t first, std::int64_t count, const std::uint8_t** rows) override {
    for (std::int64_t index = 0; index < count; ++index) {
      const std::int64_t y = first + index, needed = taps_.count[y];
      input_->get(taps_.first[y], needed, from_.data());
      if (needed % 2) from_[needed] = from_[needed - 1];  // taps_.width is even, so there is room
      kernels_.vertical(from_.data(), ring_.row(y), bytes_, taps_, y);
      rows[index] = ring_.row(y);
    }
  }

 private:
  std::unique_ptr<Rows> input_;
  std::int64_t bytes_;
  Taps taps_;
  const Kernels& kernels_;
  Ring ring_;
  std::vector<const std::uint8_t*> from_;
};

// The passes that the sizes ask for, one behind the other. Each holds as many rows as the next asks for at a time.
std::unique_ptr<Rows> resized_rows(const Picture& picture, std::int64_t height, std::int64_t width, Filter filter,
                                   const Kernels& kernels) {
  const bool horizontal = width != picture.width, vertical = height != picture.height;
  const bool vertical_first =
      height <= picture.height && picture.height - height > 2 * (picture.width - width);
  Taps across = horizontal ? taps_of(picture.width, width, filter) : Taps{};
  Taps down = vertical ? taps_of(picture.height, height, filter) : Taps{};
  const std::int64_t window = down.width;

  if (horizontal && vertical && vertical_first) {
    auto source = std::make_unique<SourceRows>(picture, false, window);
    auto lower = std::make_unique<VerticalRows>(std::move(source), picture.width * kChannels, std::move(down), kernels,
                                                kRowsAtOnce);
    return std::make_unique<HorizontalRows>(std::move(lower), height, std::move(across), kernels, 1);
  }
  std::unique_ptr<Rows> rows =
      std::make_unique<SourceRows>(picture, horizontal, horizontal ? kRowsAtOnce : vertical ? window : 1);
  if (horizontal)
    rows = std::make_unique<HorizontalRows>(std::move(rows), picture.height, std::move(across), kernels,
                                            vertical ? window : 1);
  if (vertical) rows = std::make_unique<VerticalRows>(std::move(rows), width * kChannels, std::move(down), kernels, 1);
  return rows;
}

}  // namespace

void resample(const Picture& picture, std::int64_t height, std::int64_t width, Filter filter, const Kernels& kernels,
              const RowSink& sink) {
  const std::unique_ptr<Rows> rows = resized_rows(picture, height, width, filter, kernels);
  for (std::int64_t y = 0; y < height; ++y) {
    const std::uint8_t* row;
    rows->get(y, 1, &row);
    sink(row, y);
  }
}

}  // namespace safeguard
