// The tiles of the convolution kernel against plain loops, in the emulator: pixels and channels that tiles do
// not fill, more slabs than stages, taps outside of x on every side, frames before the first one; copies that
// land early and late, several orders of warps; no bank conflict. All numbers are chosen so that sums are
// exact, and y must be equal.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "emulator/emulator.h"
#include "emulator/numbers.h"
#include "kernels/cuda/convolution_args.h"
#include "kernels/cuda/linear_args.h"
#include "kernels/cuda/sparse_memory.h"

using aerogel::cuda::ConvolutionKernelArgs;

extern "C" {
void aerogel_convolution_wide(ConvolutionKernelArgs);
void aerogel_convolution_narrow(ConvolutionKernelArgs);
void aerogel_convolution_exact(ConvolutionKernelArgs);
}

namespace aerogel::testing {
namespace {

using cuda::ConvolutionTile;
using cuda::PixelSize;

struct Form {
    PixelSize x, y, kernel, stride, padding;
    int before = 0;
    bool doubled = false, bias = true, add = false;
    int gap = 0;  ///< floats between pixels, lines and frames of y
};

struct TileCase {
    const char* name;
    void (*kernel)(ConvolutionKernelArgs);
    ConvolutionTile tile;
    int channels, out_channels;
    Form form;

    friend void PrintTo(const TileCase& tile, std::ostream* out) { *out << tile.name; }
};
const TileCase kCases[] = {
    {"wide",
     aerogel_convolution_wide,
     cuda::kWideConvolution,
     40,
     140,
     {{1, 9, 19}, {1, 9, 19}, {1, 3, 3}, {1, 1, 1}, {0, 1, 1}, 0, false, true, true, 4}},
    {"wide_strided",
     aerogel_convolution_wide,
     cuda::kWideConvolution,
     10,
     100,
     {{5, 9, 8}, {5, 5, 6}, {3, 3, 2}, {1, 2, 1}, {2, 0, 1}, 1, false, false, false, 3}},
    {"narrow",
     aerogel_convolution_narrow,
     cuda::kNarrowConvolution,
     24,
     52,
     {{3, 4, 7}, {3, 4, 7}, {3, 2, 2}, {1, 1, 1}, {2, 1, 0}, 2, false, true, true, 0}},
    {"narrow_strided",
     aerogel_convolution_narrow,
     cuda::kNarrowConvolution,
     6,
     33,
     {{6, 5, 3}, {4, 5, 4}, {3, 3, 3}, {2, 1, 1}, {1, 1, 2}, 1, false, true, false, 1}},
    {"narrow_doubled",
     aerogel_convolution_narrow,
     cuda::kNarrowConvolution,
     12,
     16,
     {{2, 3, 5}, {2, 6, 10}, {1, 3, 3}, {1, 1, 1}, {0, 1, 1}, 0, true, false, true, 8}},
    {"exact",
     aerogel_convolution_exact,
     cuda::kExactConvolution,
     7,
     35,
     {{1, 5, 14}, {1, 5, 14}, {1, 3, 3}, {1, 1, 1}, {0, 1, 1}, 0, false, true, true, 0}},
    {"exact_point",
     aerogel_convolution_exact,
     cuda::kExactConvolution,
     64,
     32,
     {{1, 5, 14}, {1, 5, 14}, {1, 1, 1}, {1, 1, 1}, {0, 0, 0}, 0, false, true, false, 0}},
};

std::int64_t count(const PixelSize& size) {
    return std::int64_t{size.frames} * size.height * size.width;
}

std::size_t at(std::int64_t i) {
    return static_cast<std::size_t>(i);
}

std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
    return (a + b - 1) / b;
}

/// At 64 bytes.
template <typename T>
class Array {
  public:
    explicit Array(std::int64_t size, T value = {}) : values_(at(size) + 64 / sizeof(T), value) {}
    T* data() {
        const auto here = reinterpret_cast<std::uintptr_t>(values_.data());
        return values_.data() + (64 - here % 64) % 64 / sizeof(T);
    }
    T& operator[](std::int64_t i) { return data()[i]; }

  private:
    std::vector<T> values_;
};

/// The weight as convolution_args.h says it lies.
class PackedWeight {
  public:
    PackedWeight(int parts, std::int64_t numbers, std::int64_t rows)
        : parts_(parts), rows_(rows), bytes_(ceil_div(numbers, 32) * rows * parts * 64) {}

    unsigned char* data() { return bytes_.data(); }

    void put(std::int64_t n, std::int64_t number, float value) {
        const std::int64_t row = cuda::neighbour_order(n), i = number % 16;
        // Lane l holds numbers 4 (l % 4) and following: two in each half of what it multiplies.
        const std::int64_t chunk = number % 32 / 16 * 2 + (i % 4 >= 2 ? 1 : 0);
        const std::int64_t in_chunk = i / 4 * 2 + i % 2;
        for (int part = 0; part < parts_; ++part) {
            const std::uint32_t half = emulator::bf16_of_float(value);
            const std::int64_t eight = (number / 32 * rows_ + row) / 8;
            const std::int64_t to = (((eight * parts_ + part) * 4 + chunk) * 8 + row % 8) * 16 + in_chunk * 2;
            bytes_[to] = static_cast<unsigned char>(half);
            bytes_[to + 1] = static_cast<unsigned char>(half >> 8);
            value -= emulator::float_of_bf16(half);
        }
    }

  private:
    int parts_;
    std::int64_t rows_;
    Array<unsigned char> bytes_;
};

class TileRun {
  public:
    /// with_nan: the last pixel of x has one, which only y that has a tap there may see.
    TileRun(const TileCase& c, std::uint64_t seed, bool with_nan = false)
        : c_(c),
          f_(c.form),
          random_(seed),
          padded_(ceil_div(c.channels, 4) * 4),
          rows_(ceil_div(c.out_channels, 128) * 128),
          x_(count(f_.x) * c.channels),
          before_(std::int64_t{f_.before} * f_.x.height * f_.x.width * c.channels + 1),
          w_(taps() * c.channels * c.out_channels),
          packed_(c.tile.parts, taps() * padded_, rows_),
          bias_(c.out_channels),
          pixel_(c.out_channels + f_.gap),
          line_(f_.y.width * pixel_ + f_.gap),
          frame_(f_.y.height * line_ + f_.gap),
          y_(f_.y.frames * frame_, kUntouched),
          add_(f_.y.frames * frame_) {
        for (std::int64_t i = 0; i < count(f_.x) * c.channels; ++i) x_[i] = number(i % c.channels % 2 == 0);
        if (with_nan) x_[(count(f_.x) - 1) * c.channels] = std::numeric_limits<float>::quiet_NaN();
        for (std::int64_t i = 0; i < before_size(); ++i) before_[i] = number(i % c.channels % 2 == 0);
        for (std::int64_t n = 0; n < c.out_channels; ++n) {
            bias_[n] = static_cast<float>(any(-3, 3));
            for (std::int64_t i = 0; i < taps() * c.channels; ++i) {
                const float value = number(i % c.channels % 2 != 0);
                w_[n * taps() * c.channels + i] = value;
                packed_.put(n, i / c.channels * padded_ + i % c.channels, value);
            }
        }
        for (std::int64_t i = 0; i < f_.y.frames * frame_; ++i) add_[i] = static_cast<float>(any(-3, 3));
    }

    std::string run(std::uint64_t seed, bool late) {
        emulator::Options options;
        options.seed = seed;
        options.late = late;
        ConvolutionKernelArgs a = arguments();
        const auto blocks = static_cast<unsigned>(ceil_div(count(f_.y), c_.tile.rows) *
                                                  ceil_div(c_.out_channels, c_.tile.columns));
        const emulator::Report report = emulator::launch({{blocks},
                                                          {static_cast<unsigned>(c_.tile.threads)},
                                                          static_cast<std::size_t>(c_.tile.shared_bytes())},
                                                         c_.kernel, a, options);
        if (!report.ok()) return report.text();
        if (report.products == 0) return "no product";
        if (report.matrix_conflicts + report.shared_conflicts != 0)
            return std::to_string(report.matrix_conflicts) + " and " +
                   std::to_string(report.shared_conflicts) + " bank conflicts";
        return compare();
    }

  private:
    static constexpr float kUntouched = -12345.5F;

    std::int64_t taps() const { return count(f_.kernel); }
    std::int64_t before_size() const {
        return std::int64_t{f_.before} * f_.x.height * f_.x.width * c_.channels;
    }
    int any(int from, int to) { return std::uniform_int_distribution<int>(from, to)(random_); }

    /// Of several parts only where the other factor has one, so that no product is left out.
    float number(bool in_parts) {
        const bool exact = c_.tile.parts == 3;
        const auto whole = static_cast<float>(exact ? any(-1, 1) : any(-7, 7));
        if (!in_parts) return whole;
        const auto bit = [&] { return static_cast<float>(any(-1, 1)); };
        return exact ? whole + bit() * 0x1p-9F + bit() * 0x1p-17F : whole + bit() * 0x1p-9F;
    }

    ConvolutionKernelArgs arguments() {
        ConvolutionKernelArgs a = {};
        a.x = x_.data();
        a.before = f_.before > 0 ? before_.data() : nullptr;
        a.w = packed_.data();
        a.bias = f_.bias ? bias_.data() : nullptr;
        a.add = f_.add ? add_.data() : nullptr;
        a.y = y_.data();
        a.pixels = count(f_.y);
        a.y_frame = frame_, a.y_line = line_, a.y_pixel = pixel_;
        a.x_size = f_.x, a.y_size = f_.y, a.kernel = f_.kernel, a.stride = f_.stride, a.padding = f_.padding;
        a.before_frames = f_.before;
        a.channels = c_.channels;
        a.padded_channels = static_cast<std::int32_t>(padded_);
        a.out_channels = c_.out_channels;
        a.slabs = static_cast<std::int32_t>(ceil_div(taps() * padded_, 32));
        a.w_rows = static_cast<std::int32_t>(rows_);
        a.column_tiles = static_cast<std::int32_t>(ceil_div(c_.out_channels, c_.tile.columns));
        a.doubled = f_.doubled;
        a.x_aligned = c_.channels % 4 == 0;
        a.y_aligned = frame_ % 4 == 0 && line_ % 4 == 0 && pixel_ % 4 == 0;
        return a;
    }

    double x_at(int frame, int line, int column, int channel) {
        if (line < 0 || column < 0 || frame >= f_.x.frames) return 0;
        if (f_.doubled) line /= 2, column /= 2;
        if (line >= f_.x.height || column >= f_.x.width || frame < -f_.before) return 0;
        Array<float>& from = frame < 0 ? before_ : x_;
        if (frame < 0) frame += f_.before;
        const std::int64_t pixel = (std::int64_t{frame} * f_.x.height + line) * f_.x.width + column;
        return static_cast<double>(from[pixel * c_.channels + channel]);
    }

    double sum(int frame, int line, int column, std::int64_t n) {
        double all = 0;
        std::int64_t i = n * taps() * c_.channels;
        for (int t = 0; t < f_.kernel.frames; ++t)
            for (int h = 0; h < f_.kernel.height; ++h)
                for (int w = 0; w < f_.kernel.width; ++w)
                    for (int c = 0; c < c_.channels; ++c, ++i)
                        all += static_cast<double>(w_[i]) *
                               x_at(frame * f_.stride.frames + t - f_.padding.frames,
                                    line * f_.stride.height + h - f_.padding.height,
                                    column * f_.stride.width + w - f_.padding.width, c);
        return all;
    }

    std::string compare() {
        std::vector<bool> margin(at(f_.y.frames * frame_), true);
        for (int t = 0; t < f_.y.frames; ++t)
            for (int h = 0; h < f_.y.height; ++h)
                for (int w = 0; w < f_.y.width; ++w)
                    for (std::int64_t n = 0; n < c_.out_channels; ++n) {
                        const std::int64_t here = t * frame_ + h * line_ + w * pixel_ + n;
                        margin[at(here)] = false;
                        double wanted = sum(t, h, w, n);
                        if (f_.bias) wanted += static_cast<double>(bias_[n]);
                        if (f_.add) wanted += static_cast<double>(add_[here]);
                        if (std::isnan(wanted) ? !std::isnan(y_[here])
                                               : y_[here] != static_cast<float>(wanted))
                            return "y[" + std::to_string(t) + "," + std::to_string(h) + "," +
                                   std::to_string(w) + "," + std::to_string(n) + "] is " +
                                   std::to_string(y_[here]) + ", wanted " + std::to_string(wanted);
                    }
        for (std::size_t i = 0; i < margin.size(); ++i)
            if (margin[i] && y_[static_cast<std::int64_t>(i)] != kUntouched) return "a gap was written to";
        return "";
    }

    const TileCase& c_;
    const Form& f_;
    std::mt19937_64 random_;
    std::int64_t padded_, rows_;
    Array<float> x_, before_, w_;
    PackedWeight packed_;
    Array<float> bias_;
    std::int64_t pixel_, line_, frame_;
    Array<float> y_, add_;
};

class Tiles : public ::testing::TestWithParam<TileCase> {};

TEST_P(Tiles, agree_with_plain_loops_without_races_and_conflicts) {
    EXPECT_EQ(TileRun(GetParam(), 1).run(1, true), "");
    EXPECT_EQ(TileRun(GetParam(), 2).run(2, false), "");
    EXPECT_EQ(TileRun(GetParam(), 3, true).run(3, true), "");
}

INSTANTIATE_TEST_SUITE_P(Convolution, Tiles, ::testing::ValuesIn(kCases),
                         [](const auto& tile) { return std::string(tile.param.name); });

/// Two pixels of x that lie 2^31 numbers apart, and of y that lie 2^32 apart.
TEST(ConvolutionTiles, offsets_beyond_32_bits) {
    constexpr std::int64_t kFar = std::int64_t{1} << 31;
    constexpr std::size_t kBytes = std::size_t{9} << 30, kYBytes = std::size_t{17} << 30;
    const SparseMemory x_memory(kBytes), y_memory(kYBytes);
    ASSERT_TRUE(x_memory.is_there());
    ASSERT_TRUE(y_memory.is_there());
    float *x = x_memory.as<float>(), *y = y_memory.as<float>();
    x[0] = 3;
    x[kFar] = 5;
    PackedWeight w(3, 8, 128);
    w.put(0, 0, 7);
    ConvolutionKernelArgs a = {};
    a.x = x;
    a.y = y;
    a.w = w.data();
    a.pixels = 2;
    a.y_frame = a.y_line = a.y_pixel = 2 * kFar;
    a.x_size = {1, 1, static_cast<std::int32_t>(kFar / 8 + 1)};
    a.y_size = {1, 1, 2};
    a.kernel = {1, 1, 1};
    a.stride = {1, 1, static_cast<std::int32_t>(kFar / 8)};
    a.channels = a.padded_channels = 8;
    a.out_channels = a.slabs = a.column_tiles = a.x_aligned = 1;
    a.w_rows = 128;
    const std::size_t shared = static_cast<std::size_t>(cuda::kExactConvolution.shared_bytes());
    ASSERT_EQ(emulator::launch({{1}, {128}, shared}, aerogel_convolution_exact, a).text(), "");
    EXPECT_EQ(y[0], 21.0F);
    EXPECT_EQ(y[2 * kFar], 35.0F);
}

}  // namespace
}  // namespace aerogel::testing
